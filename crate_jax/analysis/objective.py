"""The sparse rate reduction along the network: what each half-layer does to each term of its objective.

    R(X) - R^c(X | U) - lambda ||X||_1          larger is better: tokens spread out, but near the subspaces, and sparse

For an encoder layer X is LN(z) before the layer, after compression and after sparsification, always by the layer's own
LayerNorm and its own U, so that the three can be compared; for a decoder layer before, after the linear map and after
expansion, against V. Sparsity is measured on tokens scaled to a root mean square of one, where LN's shift cannot hide
zeros: the mean of |x|, 1 at most. Pai et al. 2024 (arXiv 2404.02446), section 2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.analysis.layerwise import heads_of, subspaces_of
from crate_jax.models.trace import trace
from crate_jax.operators.coding_rate import EPSILON, coding_rate, subspace_coding_rate
from crate_jax.operators.normalisation import layer_norm
from crate_jax.operators.subspace_attention import split_heads

STAGES = {"encoder": ("input", "compressed", "output"), "decoder": ("input", "mapped", "output")}


def unit_tokens(z_BxTxD):
    """Tokens scaled to a root mean square of one; zero stays zero."""
    z = z_BxTxD.astype(jnp.float32)
    square = jnp.mean(jnp.square(z), -1, keepdims=True)
    return z * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))


def _terms(heads, epsilon, z_BxTxD, norm, subspaces_DxKP):
    x_BxTxD = layer_norm(z_BxTxD.astype(jnp.float32), norm["scale"], norm["bias"], epsilon=1e-5)
    codes_BxTxKP = jnp.matmul(x_BxTxD, subspaces_DxKP, precision="highest")
    return {
        "rate": coding_rate(x_BxTxD, epsilon=epsilon),
        "coding_rate": subspace_coding_rate(split_heads(codes_BxTxKP, heads), epsilon=epsilon),
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
        image): `rate` (R), `coding_rate` (R^c), both nats, and `l1`, the mean absolute entry of tokens with unit root
        mean square. The stages are those of `STAGES`.
    """
    layers = trace(model, params, images_BxHxWxC)[1]
    parts = {part: _half_layers_of(model, params, layers, part, epsilon) for part in STAGES}
    return {part: terms for part, terms in parts.items() if terms}


def _half_layers_of(model, params, layers, part, epsilon):
    names = sorted(name for name in layers if name.startswith(part))
    if not names or "codes" not in layers[names[0]]:
        return {}
    step = "compression" if part == "encoder" else "expansion"
    tokens_LxSxBxTxD = jnp.stack([jnp.stack([layers[name][stage] for stage in STAGES[part]]) for name in names])
    norms = jax.tree.map(lambda *x: jnp.stack(x), *[params[name][step]["attention_norm"] for name in names])
    subspaces = jnp.stack([subspaces_of(params, name) for name in names])
    terms = functools.partial(_terms, heads_of(model, names[0]), epsilon)

    def of_layer(held):
        tokens, norm, subspaces_DxKP = held
        return jax.lax.map(lambda z: terms(z, norm, subspaces_DxKP), tokens)

    return jax.lax.map(of_layer, (tokens_LxSxBxTxD, norms, subspaces))


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
