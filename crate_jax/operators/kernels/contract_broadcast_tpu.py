"""Contract-and-broadcast attention as one Pallas kernel for TPU: attention stays in VMEM, the codes are what is saved.

    R = pool w,   A = softmax(R w^T c),   S = R + s_r A w,   C = softmax(S S^T c) S,   o = s_x A^T C,      c = P^-1/2

and backward, with g the cotangent of o, h = s_x g, B = softmax(S S^T c), and T(X, dX) = X * (dX - rowsum(X * dX)) c
of a softmax,

    dC = A h,    dT = T(B, dC S^T),    dS = B^T dC + (dT + dT^T) S,     dA = C h^T + s_r dS w^T,    dR = dS + T(A, dA) w
    dw = s_r A^T dS + T(A, dA)^T R + pool^T dR,     ds_x = sum(g * A^T C),    ds_r = sum(dS * A w)

as in `operators.contract_broadcast`. One program has one image and a group of heads (`subspace_attention_tpu`), a head
being a window of lanes, zero outside it; s_x and s_r are repeated over a head's lanes, and so are the sums that are
their gradients, over the images before, in float32. Products' operands have the codes' type.
"""

import functools

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.tpu as pltpu
import jax.numpy as jnp

from crate_jax.operators.kernels import subspace_attention_tpu as attention
from crate_jax.operators.kernels.tpu_call import LANES, cores, on_platform, product, vmem_limit

_RECTANGLES = 8  # M x N arrays in float32 that the backward pass holds at once


def vmem_bytes(num_tokens, num_representatives, width, num_heads, itemsize):
    """VMEM of one program of the backward pass, about: the attention, M x M scores, blocks twice, sums."""
    rows, lanes = -(-num_tokens // 16) * 16, -(-num_tokens // LANES) * LANES
    pooled, square = -(-num_representatives // 16) * 16, -(-num_representatives // LANES) * LANES
    block = -(-width // num_heads * attention.group_size(width, num_heads) // LANES) * LANES
    between = pooled * 4 * (_RECTANGLES * lanes + 6 * square + 10 * block)
    return between + rows * block * (6 * itemsize + 12)


def _pooled(window_MxN, codes_NxL, contracted):
    """A product with a matrix of 0 and 1, exact to float32."""
    precision = "highest" if codes_NxL.dtype == jnp.float32 else None
    dimensions = (((contracted[0],), (contracted[1],)), ((), ()))
    return jax.lax.dot_general(
        window_MxN, codes_NxL, dimensions, precision=precision, preferred_element_type=jnp.float32
    )


def _slope(weights, cotangent, scale):
    return weights * (cotangent - jnp.sum(weights * cotangent, 1, keepdims=True)) * scale


def _contract(w_NxL, representatives_1xL, window_MxN, inverse_Mx1, scale):
    """(R, A in float32, A w, S, B in float32, C) of a head."""
    kind = w_NxL.dtype
    start_MxL = (_pooled(window_MxN, w_NxL, (1, 0)) * inverse_Mx1).astype(kind)
    attention_MxN = attention.softmax(product(start_MxL, w_NxL, (1, 1)) * scale)
    moved_MxL = product(attention_MxN.astype(kind), w_NxL, (1, 0))
    contracted_MxL = (start_MxL.astype(jnp.float32) + representatives_1xL * moved_MxL).astype(kind)
    among_MxM = attention.softmax(product(contracted_MxL, contracted_MxL, (1, 1)) * scale)
    compressed_MxL = product(among_MxM.astype(kind), contracted_MxL, (1, 0)).astype(kind)
    return start_MxL, attention_MxN, moved_MxL, contracted_MxL, among_MxM, compressed_MxL


def _forward_kernel(codes_ref, tokens_ref, representatives_ref, window_ref, inverse_ref, out_ref, *, num_heads, scale):
    parts = []
    for first, end, low, high in attention.windows(codes_ref.shape[-1], num_heads):
        w_NxL = attention.window(codes_ref, first, end, low, high)
        steps_1xL = representatives_ref[:, first:end]
        _, attention_MxN, _, _, _, compressed_MxL = _contract(
            w_NxL, steps_1xL, window_ref[...], inverse_ref[...], scale
        )
        back_NxL = product(attention_MxN.astype(w_NxL.dtype), compressed_MxL, (0, 0))
        parts.append((first, tokens_ref[:, first:end] * back_NxL))
    attention.store(out_ref, parts)


def _backward_kernel(
    codes_ref, cotangent_ref, tokens_ref, representatives_ref, window_ref, inverse_ref,
    dcodes_ref, dtokens_ref, drepresentatives_ref,
    *, num_heads, scale,
):  # fmt: skip
    @pl.when(pl.program_id(2) == 0)
    def _():
        dtokens_ref[...] = jnp.zeros_like(dtokens_ref)
        drepresentatives_ref[...] = jnp.zeros_like(drepresentatives_ref)

    parts, kind = [], codes_ref.dtype
    window_MxN, inverse_Mx1 = window_ref[...], inverse_ref[...]
    for first, end, low, high in attention.windows(codes_ref.shape[-1], num_heads):
        w_NxL, g_NxL = (attention.window(ref, first, end, low, high) for ref in (codes_ref, cotangent_ref))
        steps_1xL = representatives_ref[:, first:end]
        start_MxL, attention_MxN, moved_MxL, contracted_MxL, among_MxM, compressed_MxL = _contract(
            w_NxL, steps_1xL, window_MxN, inverse_Mx1, scale
        )
        low_MxN = attention_MxN.astype(kind)
        g32_NxL = g_NxL.astype(jnp.float32)
        back_NxL = product(low_MxN, compressed_MxL, (0, 0))
        dtokens_ref[0, :, first:end] += jnp.sum(back_NxL * g32_NxL, 0, keepdims=True)
        h_NxL = (tokens_ref[:, first:end] * g32_NxL).astype(kind)
        dcompressed_MxL = product(low_MxN, h_NxL, (1, 0)).astype(kind)
        slope_MxM = _slope(among_MxM, product(dcompressed_MxL, contracted_MxL, (1, 1)), scale)
        dcontracted_MxL = product(among_MxM.astype(kind), dcompressed_MxL, (0, 0))
        dcontracted_MxL += product((slope_MxM + slope_MxM.T).astype(kind), contracted_MxL, (1, 0))
        drepresentatives_ref[0, :, first:end] += jnp.sum(dcontracted_MxL * moved_MxL, 0, keepdims=True)
        dmoved_MxL = (steps_1xL * dcontracted_MxL).astype(kind)
        dattention_MxN = product(compressed_MxL, h_NxL, (1, 1)) + product(dmoved_MxL, w_NxL, (1, 1))
        slope_MxN = _slope(attention_MxN, dattention_MxN, scale).astype(kind)
        dstart_MxL = dcontracted_MxL + product(slope_MxN, w_NxL, (1, 0))
        dw_NxL = product(low_MxN, dmoved_MxL, (0, 0)) + product(slope_MxN, start_MxL, (0, 0))
        dw_NxL += _pooled(window_MxN, (inverse_Mx1 * dstart_MxL).astype(kind), (0, 0))
        parts.append((first, dw_NxL))
    attention.store(dcodes_ref, parts)


def _call(*arrays, num_heads, scale, backward, interpret):
    """Either kernel over (half of the images, group of heads, image)."""
    (images, count, width), kind = arrays[0].shape, arrays[0].dtype
    window_MxN, inverse_Mx1 = arrays[-2:]
    group = attention.group_size(width, num_heads)
    groups, lanes = num_heads // group, width // num_heads * group
    parts = cores() if backward and images % cores() == 0 else 1
    turns = images // parts
    by_image = pl.BlockSpec((1, count, lanes), lambda part, heads, turn: (part * turns + turn, 0, heads))
    by_group = pl.BlockSpec((1, lanes), lambda part, heads, turn: (0, heads))
    total = pl.BlockSpec((1, 1, lanes), lambda part, heads, turn: (part, 0, heads))
    whole = [pl.BlockSpec(x.shape, lambda part, heads, turn: (0, 0)) for x in (window_MxN, inverse_Mx1)]
    sums = [jax.ShapeDtypeStruct((parts, 1, width), jnp.float32)] * (2 if backward else 0)
    shapes = (jax.ShapeDtypeStruct((images, count, width), kind), *sums)
    pooled = window_MxN.shape[0]
    one, few = 2 * images * pooled * count * width, 2 * images * pooled**2 * width
    return pl.pallas_call(
        functools.partial(_backward_kernel if backward else _forward_kernel, num_heads=group, scale=scale),
        out_shape=shapes,
        grid=(parts, groups, turns),
        in_specs=[*([by_image] * (len(arrays) - 4)), by_group, by_group, *whole],
        out_specs=(by_image, *([total] * len(sums))),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=vmem_limit(
                vmem_bytes(count, pooled, width, num_heads, kind.itemsize),
                f"{count} tokens and {pooled} representatives",
                keeps="model.attention_kernel='pallas' keeps a head's attention between representatives and tokens",
                instead="'xla', or larger patches",
            ),
        ),
        cost_estimate=pl.CostEstimate(
            flops=(11 * one + 5 * few) if backward else (4 * one + 2 * few),
            transcendentals=images * num_heads * pooled * (count + pooled),
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*arrays, *shapes)),
        ),
        interpret=interpret,
    )(*arrays)


def _run(images, steps, whole, head_size, spec, *, backward):
    """The kernel on each device's images and heads; sums are over all images."""

    def local(*arrays):
        how = {"num_heads": arrays[0].shape[-1] // head_size, "scale": head_size**-0.5, "backward": backward}
        return on_platform(functools.partial(_call, **how), *arrays)

    sums = 2 if backward else 0
    split = local
    if spec is not None:
        of = jax.sharding.PartitionSpec
        split = jax.shard_map(
            local,
            in_specs=(spec,) * len(images) + (of(None, spec[2]),) * 2 + (of(),) * 2,
            out_specs=(spec, *((of(spec[0], None, spec[2]),) * sums)),
            check_vma=False,  # every device does its own part
        )
    out_BxNxKP, *totals = split(*images, *steps, *whole)
    return out_BxNxKP, *(jnp.sum(total, (0, 1)) for total in totals)


def _whole(codes_BxNxKP, steps, windows_MxN, head_size):
    """Steps repeated over the lanes of a head, and the pool's windows with the inverse of their sizes."""
    lanes = [jnp.repeat(step_K.astype(jnp.float32), head_size)[None] for step_K in steps]
    inverse_Mx1 = 1 / jnp.sum(windows_MxN.astype(jnp.float32), 1, keepdims=True)
    return lanes, (windows_MxN.astype(codes_BxNxKP.dtype), inverse_Mx1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def contract_broadcast_tpu(codes_BxNxKP, step_tokens_K, step_representatives_K, windows_MxN, head_size, spec=None):
    """s_x A^T softmax(R' R'^T / sqrt P) R' in every subspace.

    Args:
        codes_BxNxKP: w, heads side by side; float32 or bfloat16.
        step_tokens_K: s_x, float32.
        step_representatives_K: s_r, float32.
        windows_MxN: bool or 0 and 1, the tokens of each representative; each row has one at least. Not differentiated.
        head_size: P.
        spec: a `PartitionSpec` of the codes over the mesh in force, whose axes divide B and K; N is never split.

    Returns:
        Shape and dtype of the codes.

    Raises:
        UserError: the attention of one head does not fit into VMEM.
    """
    return _forward(codes_BxNxKP, step_tokens_K, step_representatives_K, windows_MxN, head_size, spec)[0]


def _forward(codes_BxNxKP, step_tokens_K, step_representatives_K, windows_MxN, head_size, spec):
    steps, whole = _whole(codes_BxNxKP, (step_tokens_K, step_representatives_K), windows_MxN, head_size)
    (out_BxNxKP,) = _run((codes_BxNxKP,), steps, whole, head_size, spec, backward=False)
    return out_BxNxKP, (codes_BxNxKP, step_tokens_K, step_representatives_K, windows_MxN)


def _backward(head_size, spec, residuals, cotangent_BxNxKP):
    codes_BxNxKP, *steps_K, windows_MxN = residuals
    steps, whole = _whole(codes_BxNxKP, steps_K, windows_MxN, head_size)
    images = (codes_BxNxKP, cotangent_BxNxKP.astype(codes_BxNxKP.dtype))
    dcodes_BxNxKP, *totals = _run(images, steps, whole, head_size, spec, backward=True)
    dsteps = (jnp.sum(x.reshape(-1, head_size), 1).astype(step.dtype) for x, step in zip(totals, steps_K, strict=True))
    return dcodes_BxNxKP, *dsteps, None


contract_broadcast_tpu.defvjp(_forward, _backward)
