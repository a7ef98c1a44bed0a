"""Measurements of every layer: `measure_layers` has the list. Cheap enough to run in the training loop.

One forward pass, and Gram matrices of size P, T or D. The coding rate and `nonzero` are Pai et al. 2024 (arXiv
2404.02446), section 4; `coding_rate_official` is what its authors' layer script computes.
"""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.errors import UserError
from crate_jax.models.stacks import STACKS, layer_params
from crate_jax.models.trace import trace
from crate_jax.operators.coding_rate import EPSILON, official_coding_rate, subspace_coding_rate
from crate_jax.operators.normalisation import unit_length
from crate_jax.operators.patches import grid_of
from crate_jax.operators.subspace_attention import split_heads, subspace_attention_weights

RANKED_TOKENS = 1024


def heads_of(model, layer):
    """K of an encoder or a decoder layer, by the layer's name."""
    decoder = layer.startswith("decoder") and getattr(model, "decoder_num_heads", None)
    return decoder or model.num_heads


def logit_scale(model, layer, width):
    """What the layer multiplies its scores with before the softmax."""
    if getattr(model, "attention_scale", "official") == "paper":
        return 1.0
    return (width // heads_of(model, layer)) ** -0.5


def has_attention(model):
    """Whether the layers compute softmax attention between tokens; layers of linear cost do not."""
    return getattr(model, "compression", "mssa") == "mssa"


def sparse_codes(layer):
    """A traced layer's sparse codes, B x T x A: its output where that is what sparsification gives."""
    return layer["sparse_codes"] if "sparse_codes" in layer else layer["output"]


def attention_weights(model, name, layer):
    """softmax(scale w w^T) of a traced layer; a ViT's softmax(q k^T / sqrt P).

    Args:
        model: the network.
        name: of the layer, such as "encoder_03".
        layer: what `crate_jax.trace` kept of it.

    Returns:
        attention_BxKxTxT, f32, rows (queries) sum to one.

    Raises:
        UserError: the layer has no attention.
    """
    if "codes" in layer and has_attention(model):
        codes_BxTxKxP = split_heads(layer["codes"], heads_of(model, name))
        return subspace_attention_weights(codes_BxTxKxP, scale=logit_scale(model, name, layer["codes"].shape[-1]))
    if "query" not in layer:
        raise UserError(f"{type(model).__name__}: {name} has no attention, so there is nothing to look at.")
    query, key = layer["query"].astype(jnp.float32), layer["key"].astype(jnp.float32)
    return jax.nn.softmax(jnp.einsum("bnkp,bmkp->bknm", query, key) * query.shape[-1] ** -0.5, -1)


def orthonormal(subspaces_DxKP, num_heads):
    """[Q_1 .. Q_K]: an orthonormal basis of each U_k, so that scale and skew of the U_k no longer count. DxKP, f32."""
    width = subspaces_DxKP.shape[0]
    columns_DxKxP = subspaces_DxKP.astype(jnp.float32).reshape(width, num_heads, -1)
    basis_KxDxP = jnp.linalg.qr(jnp.swapaxes(columns_DxKxP, 0, 1))[0]
    return jnp.swapaxes(basis_KxDxP, 0, 1).reshape(width, -1)


def subspace_overlap(subspaces_DxKP, num_heads):
    """How much any two of the K subspaces share: ||Q_j^T Q_k||_F^2 / P, Q an orthonormal basis of each.

    Args:
        subspaces_DxKP: [U_1 .. U_K], bases in columns.
        num_heads: K.

    Returns:
        overlap_KxK, f32: 1 on the diagonal; P/D between random subspaces, 0 between orthogonal ones.
    """
    basis_DxKxP = orthonormal(subspaces_DxKP, num_heads).reshape(subspaces_DxKP.shape[0], num_heads, -1)
    cosines = jnp.einsum("djp,dkq->jkpq", basis_DxKxP, basis_DxKxP, precision="highest")
    return jnp.sum(jnp.square(cosines), (-1, -2)) / basis_DxKxP.shape[-1]


def effective_rank(tokens_BxTxD):
    """Participation ratio of the centred tokens of each image: (sum s^2)^2 / sum s^4, between 1 and min(T - 1, D)."""
    tokens = tokens_BxTxD.astype(jnp.float32)
    tokens = tokens - jnp.mean(tokens, 1, keepdims=True)
    size_B = jnp.sqrt(jnp.mean(jnp.square(tokens), (1, 2)))
    tokens = tokens / jnp.where(size_B > 0, size_B, 1.0)[:, None, None]  # s^4 would overflow for large tokens
    gram = jnp.einsum("btd,bsd->bts", tokens, tokens, precision="highest")
    energy_B = jnp.trace(gram, axis1=1, axis2=2)
    return energy_B**2 / jnp.maximum(jnp.sum(jnp.square(gram), (1, 2)), 1e-30)


def token_similarity(tokens_BxTxD):
    """Mean cosine between two different tokens of an image; a token of zeros counts as orthogonal to all."""
    unit, count = unit_length(tokens_BxTxD), tokens_BxTxD.shape[1]
    pairs_B = jnp.sum(jnp.square(jnp.sum(unit, 1)), -1) - jnp.sum(jnp.square(unit), (1, 2))
    return pairs_B / max(count * (count - 1), 1)


def feature_rank(tokens_BxTxD, most=RANKED_TOKENS):
    """Effective number of features: participation ratio of their correlation matrix C, corrected for finite samples.

        (number of features that vary)^2 / ||C||_F^2,     over the tokens of all images together

    ||C||_F^2 is estimated without bias from tokens of different images only: tokens of one image depend on each other,
    and the squared sample correlations of N tokens are too large by about 1/N each (independent features would score
    114 of 128 at N = 1,024). With fewer than four images, single tokens take the images' place.

        ||C||_F^2 = E[((x1 - x2) . (x3 - x4))^2] / 4,     x1 .. x4 independent      (Chen & Qin 2010, a U-statistic)

    Args:
        tokens_BxTxD: a layer's output.
        most: tokens that are used at most, the same number of each image.

    Returns:
        A scalar, f32: 0 if nothing varies, 1 if all features are copies of one, at most D.
    """
    tokens_BxTxD = tokens_BxTxD.astype(jnp.float32)
    if len(tokens_BxTxD) < 4:
        tokens_BxTxD = tokens_BxTxD.reshape(-1, 1, tokens_BxTxD.shape[-1])
    if len(tokens_BxTxD) > most:
        tokens_BxTxD = tokens_BxTxD[np.linspace(0, len(tokens_BxTxD) - 1, most).astype(int)]
    images, tokens, _ = tokens_BxTxD.shape
    used = min(tokens, max(1, most // images))
    x_BxTxD = tokens_BxTxD[:, np.linspace(0, tokens - 1, used).astype(int)]
    x_BxTxD = x_BxTxD - jnp.mean(x_BxTxD, (0, 1))
    variance_D = jnp.mean(jnp.square(x_BxTxD), (0, 1))
    varies_D = variance_D > 1e-8 * jnp.max(variance_D)
    x_BxTxD = jnp.where(varies_D, x_BxTxD * jax.lax.rsqrt(jnp.where(varies_D, variance_D, 1.0)), 0.0)
    varying = jnp.sum(varies_D)
    squared = squared_norm_of_covariance(x_BxTxD) if images >= 4 else varying
    return jnp.square(varying) / jnp.maximum(jnp.maximum(squared, varying), 1e-30)


def squared_norm_of_covariance(x_BxTxD):
    """||Cov||_F^2 of the features without bias; B >= 4 independent images of T dependent tokens each."""
    images, tokens, width = x_BxTxD.shape
    mean_BxD = jnp.mean(x_BxTxD, 1)
    flat_NxD = x_BxTxD.reshape(-1, width)
    gram = jnp.square(jnp.matmul(flat_NxD, flat_NxD.T, precision="highest"))
    gram_BxB = jnp.mean(gram.reshape(images, tokens, images, tokens), (1, 3))
    means_BxB = jnp.matmul(mean_BxD, mean_BxD.T, precision="highest")
    other_BxB = 1 - jnp.eye(images)
    means_BxB = means_BxB * other_BxB
    mixed_BxBxT = jnp.einsum("bd,ctd->bct", mean_BxD, x_BxTxD, precision="highest") * other_BxB[..., None]
    triples = jnp.square(jnp.sum(mixed_BxBxT, 0)) - jnp.sum(
        jnp.square(mixed_BxBxT), 0
    )  # the two means are of two images
    squares = jnp.sum(jnp.square(means_BxB))
    fours = jnp.square(jnp.sum(means_BxB)) - 4 * jnp.sum(jnp.square(jnp.sum(means_BxB, 1))) + 2 * squares
    pairs_of = float(images * (images - 1))  # the numbers of triples and fours do not fit into an int32
    triples_of, fours_of = pairs_of * (images - 2), pairs_of * (images - 2) * (images - 3)
    return jnp.sum(gram_BxB * other_BxB) / pairs_of - 2 * jnp.sum(jnp.mean(triples, -1)) / triples_of + fours / fours_of


def _of_one_layer(model, name, has_codes, epsilon, layer, subspaces_DxKP):
    """The measurements of one traced layer, each of shape B."""
    batch = layer["output"].shape[0]
    measured = {
        "token_similarity": token_similarity(layer["output"]),
        "effective_rank": effective_rank(layer["output"]),
        "feature_rank": jnp.broadcast_to(feature_rank(layer["output"]), (batch,)),
    }
    if has_attention(model):
        attention_BxKxTxT = attention_weights(model, name, layer)
        measured["attention_peak"] = jnp.mean(jnp.max(jnp.mean(attention_BxKxTxT, 2), -1), 1)
        measured["attention_self"] = jnp.mean(jnp.diagonal(attention_BxKxTxT, axis1=2, axis2=3), (1, 2))
    if has_codes:
        measured["nonzero"] = jnp.mean((sparse_codes(layer) != 0).astype(jnp.float32), (1, 2))
    if subspaces_DxKP is None:
        return measured
    heads = heads_of(model, name)
    codes_BxTxKxP = split_heads(layer["codes"], heads)
    measured["coding_rate"] = subspace_coding_rate(codes_BxTxKxP, epsilon=epsilon)
    measured["coding_rate_official"] = official_coding_rate(codes_BxTxKxP)
    basis_DxKP = orthonormal(subspaces_DxKP, heads)
    orthonormal_codes = jnp.matmul(layer["normed"].astype(jnp.float32), basis_DxKP, precision="highest")
    measured["coding_rate_orthonormal"] = subspace_coding_rate(split_heads(orthonormal_codes, heads), epsilon=epsilon)
    others_KxK = subspace_overlap(subspaces_DxKP, heads) * (1 - jnp.eye(heads))
    measured["subspace_overlap"] = jnp.broadcast_to(jnp.max(others_KxK), (batch,))
    return measured


@functools.partial(jax.jit, static_argnames=("model", "parts", "epsilon"))
def _measure(model, params, images_BxHxWxC, parts, epsilon):
    layers = trace(model, params, images_BxHxWxC)[1]
    return [_measure_part(model, params, layers, part, epsilon) for part in parts]


def _measure_part(model, params, layers, part, epsilon):
    names = [name for name in layers if name.startswith(part)]
    if not names:
        return {}
    kept = ("normed", "output", "codes", "sparse_codes", "query", "key")
    # one layer is compiled and looped over: of what trace holds, only what is measured is stacked
    stacked = {key: jnp.stack([layers[name][key] for name in names]) for key in kept if key in layers[names[0]]}
    bases = [subspaces_of(params, name) for name in names]
    subspaces = None if bases[0] is None else jnp.stack(bases)
    has_codes = parameter_of(params, names[0], "dictionary") is not None
    one = functools.partial(_of_one_layer, model, names[0], has_codes, epsilon)
    return jax.lax.map(lambda pair: one(*pair), (stacked, subspaces))


def parameter_of(params, layer, key):
    """What a layer holds under a key, at any depth, such as "dictionary"; None where it holds no such thing."""
    return find_parameter(layer_params(params, layer), key)


def find_parameter(tree, key):
    """The first value under a key, at any depth; None where there is none."""
    if key in tree:
        return tree[key]
    found = (find_parameter(inside, key) for inside in tree.values() if hasattr(inside, "values"))
    return next((one for one in found if one is not None), None)


def subspaces_of(params, layer):
    """[U_1 .. U_K] of a layer by its name: encoder layers compress against it, decoder layers expand."""
    return parameter_of(params, layer, "subspaces")


def measure_layers(model, params, images_BxHxWxC, *, epsilon=EPSILON):
    """The encoder's layers on whole images (no mask): a row per layer, a column per image.

        coding_rate              nats: R^c_eps(LN(Z^l) | U^l), eps = 0.5, with the learned U
        coding_rate_orthonormal  the same with an orthonormal basis of each U_k: it does not grow with ||U||
        coding_rate_official     nats: the official script's variant, unit codes, eps = 0.01 unsquared
        nonzero                  fraction of entries after sparsification that are not zero (encoder)
        attention_peak           weight that the most attended token receives from an average query, mean over heads
        attention_self           weight that a token gives to itself, mean over tokens and heads
        token_similarity         mean cosine between two tokens of the layer's output
        effective_rank           (sum s^2)^2 / sum s^4, s the singular values of the centred output
        feature_rank             D^2 / ||C||_F^2, C the correlations between features over all images, corrected for the
                                 finite sample (one number for all images together)
        subspace_overlap         ||Q_j^T Q_k||_F^2 / P of the two closest subspaces: P/D if random, 1 if equal

    Args:
        model: from `create_model`. A ViT has no subspaces and no ISTA: for it the keys that need them are absent.
        params: its parameters.
        images_BxHxWxC: normalised; any resolution that the patch divides.
        epsilon: the distortion of `coding_rate`.

    Returns:
        A dictionary of arrays LxB, float32, of those above that the network has. May be called under `jax.jit`.

    Raises:
        UserError: a network without attention.
    """
    return _measure(model, params, images_BxHxWxC, ("encoder",), epsilon)[0]


def measure_one_by_one(model, params, images_BxHxWxC, bring, *, epsilon=EPSILON):
    """`measure_layers` with the parameters of one layer at a time, so that no device holds more of them.

    Args:
        model: as `measure_layers`.
        params: its parameters, sharded over any mesh.
        images_BxHxWxC: normalised, on one device.
        bring: a tree of arrays to the same tree whole on that device (`training.observers.on_one_device`).
        epsilon: the distortion of `coding_rate`.

    Returns:
        As `measure_layers`.
    """
    z_BxTxD = _embed(model, bring({k: v for k, v in params.items() if k not in STACKS}), images_BxHxWxC)
    grid = grid_of(images_BxHxWxC.shape[1:3], model.patch_size)
    rows = []
    for index in range(model.depth):
        z_BxTxD, measured = _apply_and_measure(model, bring(_layer(params["encoder"], index)), z_BxTxD, grid, epsilon)
        rows.append(measured)
    return {key: jnp.stack([row[key] for row in rows]) for key in rows[0]}


@functools.partial(jax.jit, static_argnames=("model",))
def _embed(model, params, images_BxHxWxC):
    """The tokens that the first layer reads."""
    without_layers = {"depth": 0} | ({"decoder_depth": 0} if hasattr(model, "decoder_depth") else {})
    return model.clone(**without_layers).apply({"params": params}, images_BxHxWxC, method="encode_tokens")


@jax.jit
def _layer(stack, index):
    """One layer's parameters out of a stack."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), stack)


@functools.partial(jax.jit, static_argnames=("model", "grid", "epsilon"))
def _apply_and_measure(model, params, z_BxTxD, grid, epsilon):
    z_BxTxD, sown = model.encoder_layer(grid).apply({"params": params}, z_BxTxD, mutable=["intermediates"])
    flat = flax.traverse_util.flatten_dict(sown["intermediates"])
    layer = {path[-1]: values[0] for path, values in flat.items()}
    has_codes = find_parameter(params, "dictionary") is not None
    subspaces_DxKP = find_parameter(params, "subspaces")
    return z_BxTxD, _of_one_layer(model, model.encoder_names[0], has_codes, epsilon, layer, subspaces_DxKP)


def measure_decoder_layers(model, params, images_BxHxWxC, *, epsilon=EPSILON):
    """The same of the decoder's layers, each against its own subspaces V; `nonzero` is the encoder's alone.

    Args, returns and errors as `measure_layers`; an empty dictionary for a network with no decoder.
    """
    return _measure(model, params, images_BxHxWxC, ("decoder",), epsilon)[0]


def measure_both(model, params, images_BxHxWxC, *, epsilon=EPSILON):
    """[`measure_layers`, `measure_decoder_layers`] from one pass."""
    return _measure(model, params, images_BxHxWxC, ("encoder", "decoder"), epsilon)
