"""Subspace self-attention as one Pallas kernel for TPU: scores stay in VMEM.

    o = softmax(scale w w^T) w,        dw = A^T g + scale (dS + dS^T) w,    dS = A * (g w^T - rowsum(A * g w^T))

as in `operators.subspace_attention`, head by head; the backward pass recomputes A. One program
of the grid has one image and the smallest group of heads that fills whole lanes (two of 64, four of 32), all N tokens
of it: the array is read as the product before left it, B x N x KP, and nothing is transposed. A head is a window of
lanes, zero outside it: the matrix unit contracts 128 lanes at once anyway, and no lane ever moves. Scores, softmax and
sums are float32; operands of products have the codes' type. Products are of the precision that jax is set to.
"""

import functools

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.tpu as pltpu
import jax.numpy as jnp

from crate_jax.operators.affine import times_weight, weight_gradient
from crate_jax.operators.kernels.tpu_call import LANES, on_platform, product, vmem_limit

_SQUARES = 5  # N x N arrays in float32 that the backward pass holds at once


def group_size(width, num_heads):
    """Heads that one program takes: as few as fill whole lanes, or all of them.

    Args:
        width: K P.
        num_heads: K.
    """
    size = width // num_heads
    fits = (group for group in range(1, num_heads) if num_heads % group == 0 and group * size % LANES == 0)
    return next(fits, num_heads)


def vmem_bytes(num_tokens, width, num_heads, itemsize):
    """VMEM of one program of the backward pass, about."""
    size = width // num_heads
    rows, lanes = -(-num_tokens // 8) * 8, -(-num_tokens // LANES) * LANES
    block = rows * -(-size * group_size(width, num_heads) // LANES) * LANES
    return _SQUARES * 4 * rows * lanes + block * (8 * itemsize + 8)  # four arrays, two copies of each; two sums


def windows(width, num_heads):
    """For each head of a block: the lanes [first, end) to read, whole tiles of them, and [low, high), its own."""
    size = width // num_heads
    for head in range(num_heads):
        low, high = head * size, (head + 1) * size
        yield low // LANES * LANES, min(-(-high // LANES) * LANES, width), low, high


def window(block_ref, first, end, low, high):
    """N x (end - first): a head's lanes of a block, and zeros where its neighbours are."""
    values = block_ref[0, :, first:end]
    if (first, end) == (low, high):
        return values
    lane = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1) + first
    return jnp.where((lane >= low) & (lane < high), values, jnp.zeros_like(values))


def softmax(scores):
    """Of each row."""
    risen = jnp.exp(scores - jnp.max(scores, 1, keepdims=True))
    return risen / jnp.sum(risen, 1, keepdims=True)


def store(out_ref, parts):
    """Sums windows that overlap, and writes each tile of lanes once.

    Args:
        out_ref: 1 x N x width.
        parts: list of (first lane, N x L).
    """
    width, tiles = out_ref.shape[-1], {}
    for first, values in parts:
        for start in range(0, values.shape[1], LANES):
            tile = values[:, start : start + LANES]
            tiles[first + start] = tiles[first + start] + tile if first + start in tiles else tile
    for first, tile in tiles.items():
        out_ref[0, :, first : min(first + LANES, width)] = tile.astype(out_ref.dtype)


def forward_kernel(codes_ref, out_ref, *, num_heads, scale):
    """o = softmax(scale w w^T) w, a group of heads of one image; references to 1 x N x lanes."""
    parts = []
    for place in windows(codes_ref.shape[-1], num_heads):
        w_NxL = window(codes_ref, *place)
        attention_NxN = softmax(product(w_NxL, w_NxL, (1, 1)) * scale).astype(w_NxL.dtype)
        parts.append((place[0], product(attention_NxN, w_NxL, (1, 0))))
    store(out_ref, parts)


def backward_kernel(codes_ref, cotangent_ref, out_ref, *moved_ref, num_heads, scale):
    """dw = A^T g + scale (dS + dS^T) w, and o once more if there is a reference for it."""
    parts, moved = [], []
    for place in windows(codes_ref.shape[-1], num_heads):
        w_NxL, g_NxL = window(codes_ref, *place), window(cotangent_ref, *place)
        attention_NxN = softmax(product(w_NxL, w_NxL, (1, 1)) * scale)
        product_NxN = product(g_NxL, w_NxL, (1, 1))
        inner_Nx1 = jnp.sum(attention_NxN * product_NxN, 1, keepdims=True)
        slope_NxN = attention_NxN * (product_NxN - inner_Nx1) * scale
        symmetric_NxN = (slope_NxN + slope_NxN.T).astype(w_NxL.dtype)
        low_NxN = attention_NxN.astype(w_NxL.dtype)
        by_value_NxL = product(low_NxN, g_NxL, (0, 0))
        parts.append((place[0], by_value_NxL + product(symmetric_NxN, w_NxL, (1, 0))))
        if moved_ref:
            moved.append((place[0], product(low_NxN, w_NxL, (1, 0))))
    store(out_ref, parts)
    if moved_ref:
        store(moved_ref[0], moved)


def _call(*arrays, kernel, num_heads, scale, products, outputs, interpret):
    """Runs a kernel over (image, group of heads) to `outputs` arrays; `products` of N x N x P each head costs."""
    images, tokens, width = arrays[0].shape
    group = group_size(width, num_heads)
    lanes = width // num_heads * group
    block = pl.BlockSpec((1, tokens, lanes), lambda image, heads: (image, 0, heads))
    cost = pl.CostEstimate(
        flops=2 * products * images * tokens**2 * width,
        transcendentals=images * num_heads * tokens**2,
        bytes_accessed=(len(arrays) + outputs) * arrays[0].size * arrays[0].dtype.itemsize,
    )
    limit = vmem_limit(
        vmem_bytes(tokens, width, num_heads, arrays[0].dtype.itemsize),
        f"{tokens} tokens",
        keeps="model.attention_kernel='pallas' keeps a head's scores",
        instead="'xla', or larger patches",
    )
    return pl.pallas_call(
        functools.partial(kernel, num_heads=group, scale=scale),
        out_shape=(jax.ShapeDtypeStruct(arrays[0].shape, arrays[0].dtype),) * outputs,
        grid=(images, num_heads // group),
        in_specs=[block] * len(arrays),
        out_specs=(block,) * outputs,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=limit),
        cost_estimate=cost,
        interpret=interpret,
    )(*arrays)


def _run(kernel, arrays, head_size, scale, spec, *, products, outputs):
    """The kernel on each device's images and heads; `spec` None: there is no mesh."""

    def local(*arrays):
        heads = arrays[0].shape[-1] // head_size
        how = {"kernel": kernel, "num_heads": heads, "scale": scale, "products": products, "outputs": outputs}
        return on_platform(functools.partial(_call, **how), *arrays)

    if spec is None:
        return local(*arrays)
    # every device does its own part and nothing is summed over the mesh, so there is nothing to check
    split = jax.shard_map(local, in_specs=(spec,) * len(arrays), out_specs=(spec,) * outputs, check_vma=False)
    return split(*arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def subspace_self_attention_tpu(codes_BxNxKP, head_size, scale, spec=None):
    """softmax(scale w_k w_k^T) w_k in every subspace at once.

    Args:
        codes_BxNxKP: w, the tokens' coordinates U_k^T z, heads side by side; float32 or bfloat16. Any N for which
            `vmem_bytes` is at most VMEM_BYTES, any K and P.
        head_size: P.
        scale: of the logits.
        spec: a `PartitionSpec` of the codes over the mesh in force, whose axes divide B and K; N is never split.

    Returns:
        Shape and dtype of the codes.
    """
    return _forward(codes_BxNxKP, head_size, scale, spec)[0]


def _forward(codes_BxNxKP, head_size, scale, spec):
    (moved_BxNxKP,) = _run(forward_kernel, (codes_BxNxKP,), head_size, scale, spec, products=2, outputs=1)
    return moved_BxNxKP, codes_BxNxKP


def _backward(head_size, scale, spec, codes_BxNxKP, cotangent_BxNxKP):
    arrays = (codes_BxNxKP, cotangent_BxNxKP.astype(codes_BxNxKP.dtype))
    return _run(backward_kernel, arrays, head_size, scale, spec, products=4, outputs=1)


subspace_self_attention_tpu.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def projected_self_attention_tpu(codes_BxNxKP, weight, head_size, scale, spec=None, transposed=False):
    """softmax(scale w_k w_k^T) w_k in every subspace, times W; the codes are the only residual of their size.

    The gradient of W needs the attention's result, which the backward kernel recomputes: one more product of N x N x P
    per head, instead of an array of B x N x KP in HBM.

    Args:
        codes_BxNxKP, head_size, scale, spec: as in `subspace_self_attention_tpu`.
        weight: W, KP x D, float32; so is its gradient.
        transposed: W is the transpose of `weight`, D x KP.

    Returns:
        B x N x D, in the dtype of the codes.
    """
    return _forward_projected(codes_BxNxKP, weight, head_size, scale, spec, transposed)[0]


def _forward_projected(codes_BxNxKP, weight, head_size, scale, spec, transposed):
    moved_BxNxKP, _ = _forward(codes_BxNxKP, head_size, scale, spec)
    return times_weight(moved_BxNxKP, weight, transposed), (codes_BxNxKP, weight)


def _backward_projected(head_size, scale, spec, transposed, residuals, cotangent_BxNxD):
    codes_BxNxKP, weight = residuals
    dmoved_BxNxKP = times_weight(cotangent_BxNxD.astype(codes_BxNxKP.dtype), weight, not transposed)
    arrays = (codes_BxNxKP, dmoved_BxNxKP)
    dcodes_BxNxKP, moved_BxNxKP = _run(backward_kernel, arrays, head_size, scale, spec, products=5, outputs=2)
    return dcodes_BxNxKP, weight_gradient(moved_BxNxKP, cotangent_BxNxD, weight.dtype, transposed)


projected_self_attention_tpu.defvjp(_forward_projected, _backward_projected)
