"""The sparse rate reduction along the network: how each half-layer changes each term, and the steps behind it.

    R(X) - R^c(X | U) - lambda ||X||_1          larger is better: tokens spread out, but near the subspaces, and sparse

For an encoder layer X is LN(z) before the layer, after compression and after sparsification, always by the layer's own
LayerNorm and its own U, so that the three can be compared; for a decoder layer before, after the linear map and after
expansion, against V. R^c is given with the learned U and with orthonormal bases of the U_k, which takes the scale of U
out of it. Sparsity is measured on tokens scaled to a root mean square of one, where LN's shift cannot hide zeros: the
mean of |x|, 1 at most. Pai et al. 2024 (arXiv 2404.02446), section 2.

Compression is compared with the exact descent direction of R^c(LN(Z) | U) with respect to Z: the gradient is taken
through the layer's LayerNorm, because what a layer adds along a token's mean or length changes nothing that it reads.
That MSSA with its skip connection ascends R^c was shown by Hu, Zou and Xu (NeurIPS 2024, arXiv 2411.17182).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.analysis import theory
from crate_jax.analysis.layerwise import (
    has_attention,
    heads_of,
    logit_scale,
    orthonormal,
    parameter_of,
    sparse_codes,
)
from crate_jax.models.trace import trace
from crate_jax.operators.coding_rate import EPSILON, coding_rate, subspace_coding_rate
from crate_jax.operators.ista import lasso_objective
from crate_jax.operators.normalisation import layer_norm
from crate_jax.operators.subspace_attention import mssa, split_heads

STAGES = {"encoder": ("input", "compressed", "output"), "decoder": ("input", "mapped", "output")}


def unit_tokens(z_BxTxD):
    """Tokens scaled to a root mean square of one; zero stays zero."""
    z = z_BxTxD.astype(jnp.float32)
    square = jnp.mean(jnp.square(z), -1, keepdims=True)
    return z * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))


def _terms(model, heads, epsilon, z_BxTxD, norm, subspaces_DxKP):
    z32_BxTxD = z_BxTxD.astype(jnp.float32)
    x_BxTxD = layer_norm(z32_BxTxD, norm["scale"], norm["bias"], epsilon=model.layer_norm_epsilon)

    def rate(bases_DxKP):
        codes_BxTxKP = jnp.matmul(x_BxTxD, bases_DxKP, precision="highest")
        return subspace_coding_rate(split_heads(codes_BxTxKP, heads), epsilon=epsilon)

    return {
        "rate": coding_rate(x_BxTxD, epsilon=epsilon),
        "coding_rate": rate(subspaces_DxKP),
        "coding_rate_orthonormal": rate(orthonormal(subspaces_DxKP, heads)),
        "l1": jnp.mean(jnp.abs(unit_tokens(z_BxTxD)), (1, 2)),
    }


@functools.partial(jax.jit, static_argnames=("model", "epsilon"))
def half_layers(model, params, images_BxHxWxC, epsilon=EPSILON):
    """The terms of the objective around each half-layer, on whole images (no mask).

    Args:
        model: a CRATE.
        params: its parameters.
        images_BxHxWxC: normalised.
        epsilon: the distortion.

    Returns:
        For "encoder" and "decoder", where the network has such layers, a dictionary of arrays LxSxB (layer, stage,
        image): `rate` (R), `coding_rate` and `coding_rate_orthonormal` (R^c), nats, and `l1`, the mean absolute entry
        of tokens with unit root mean square. The stages are those of `STAGES`.
    """
    layers = trace(model, params, images_BxHxWxC)[1]
    parts = {part: _half_layers_of(model, params, layers, part, epsilon) for part in STAGES}
    return {part: terms for part, terms in parts.items() if terms}


def _half_layers_of(model, params, layers, part, epsilon):
    names = [name for name in layers if name.startswith(part)]
    if not names or "codes" not in layers[names[0]]:
        return {}
    stages = [stage for stage in STAGES[part] if stage in layers[names[0]]]
    tokens_LxSxBxTxD = jnp.stack([jnp.stack([layers[name][stage] for stage in stages]) for name in names])
    norms, subspaces = stacked_of(params, names, "attention_norm"), stacked_of(params, names, "subspaces")
    terms = functools.partial(_terms, model, heads_of(model, names[0]), epsilon)

    def of_layer(held):
        tokens, norm, subspaces_DxKP = held
        return jax.lax.map(lambda z: terms(z, norm, subspaces_DxKP), tokens)

    return jax.lax.map(of_layer, (tokens_LxSxBxTxD, norms, subspaces))


def stacked_of(params, names, key):
    """What layers hold under a key, with a leading layer axis; None where they do not."""
    if parameter_of(params, names[0], key) is None:
        return None
    return jax.tree.map(lambda *x: jnp.stack(x), *[parameter_of(params, name, key) for name in names])


@functools.partial(jax.jit, static_argnames=("model", "epsilon"))
def own_steps(model, params, images_BxHxWxC, epsilon=EPSILON):
    """Each encoder layer's own two steps against the objectives that they should descend.

    Returns:
        A dictionary of arrays LxB: `added_cosine`, of what compression adds to what it starts from (z, or LN(z) with
        skip="normed") and the descent direction of R^c(LN(z) | U) there, through LayerNorm (positive descends, negative
        ascends); for softmax attention `tied_cosine`, of MSSA(LN(z)) - LN(z) and the same (the paper's convex form,
        with U itself as the output projection); and, where the layer has a dictionary, the LASSO objective, mean over
        tokens, at the non-negative start of its steps (`lasso_start`: the positive part of LN(z) for ISTA, 0 for the
        overcomplete step) and after (`lasso_after`).
    """
    layers = trace(model, params, images_BxHxWxC)[1]
    names = model.encoder_names
    heads, scale = heads_of(model, names[0]), logit_scale(model, names[0], layers[names[0]]["codes"].shape[-1])
    norm_epsilon = model.layer_norm_epsilon
    dictionaries = stacked_of(params, names, "dictionary")

    def cosines(subspaces, norm, one):
        z, normed, compressed = (one[key].astype(jnp.float32) for key in ("input", "normed", "compressed"))
        z = normed if model.skip == "normed" else z
        how = {"num_heads": heads, "epsilon": epsilon, "norm_epsilon": norm_epsilon}
        descent = -theory.gradient_through_norm(z, norm, subspaces, **how)
        found = {"added_cosine": theory.cosine(compressed - z, descent)}
        if has_attention(model):
            tied = mssa(normed[None], subspaces, num_heads=heads, scale=scale)[0] - normed
            found["tied_cosine"] = theory.cosine(tied, descent)
        return found

    def of_layer(held):
        layer, subspaces, norm, dictionary, ista_norm = held
        tokens = {key: layer[key] for key in ("input", "normed", "compressed")}
        found = jax.lax.map(functools.partial(cosines, subspaces, norm), tokens)
        if dictionary is None:
            return found
        x = layer["compressed"].astype(jnp.float32)
        x = layer_norm(x, ista_norm["scale"], ista_norm["bias"], epsilon=norm_epsilon)
        codes = sparse_codes(layer).astype(jnp.float32)
        one_step = getattr(model, "sparsification", "ista") == "ista"
        start = jax.nn.relu(x) if one_step else jnp.zeros_like(codes)
        for key, value in (("lasso_start", start), ("lasso_after", codes)):
            found[key] = jnp.mean(lasso_objective(value, x, dictionary, sparsity=model.lambda_), -1)
        return found

    kept = ("input", "normed", "compressed", "sparse_codes", "output")
    stacked = {key: jnp.stack([layers[name][key] for name in names]) for key in kept if key in layers[names[0]]}
    bases = (stacked_of(params, names, key) for key in ("subspaces", "attention_norm"))
    return jax.lax.map(of_layer, (stacked, *bases, dictionaries, stacked_of(params, names, "ista_norm")))


def spectrum(tokens_BxTxD, most=512):
    """Squared singular values of tokens, as shares of their sum.

    Args:
        tokens_BxTxD: of a few images; all are taken together, centred.
        most: tokens that are used at most, evenly spread.

    Returns:
        share_R, descending, summing to one.
    """
    flat_NxD = np.asarray(tokens_BxTxD, np.float32).reshape(-1, tokens_BxTxD.shape[-1])
    flat_NxD = flat_NxD[np.linspace(0, len(flat_NxD) - 1, min(most, len(flat_NxD))).astype(int)]
    energy = np.linalg.svd(flat_NxD - flat_NxD.mean(0), compute_uv=False) ** 2
    return energy / max(energy.sum(), 1e-30)
