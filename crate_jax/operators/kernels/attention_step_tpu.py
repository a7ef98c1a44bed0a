"""A whole step of MSSA from its codes as one Pallas kernel for TPU: attention, output matrix, and what it is added to.

    y = x + f (SSA(w) W + b)
    dw = SSA'(f dy W^T),   dW = f SSA(w)^T dy,   db = f sum(dy),   dx = dy

Only the codes w are saved for the backward pass. One program has one image and one group of heads
(`subspace_attention_tpu`); the groups' parts of SSA(w) W are summed in VMEM, and so is dW over images, in float32.
"""

import functools

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.tpu as pltpu
import jax.numpy as jnp

from crate_jax.operators.kernels import subspace_attention_tpu as attention
from crate_jax.operators.kernels.tpu_call import cores, on_platform, product, split_images, vmem_limit


def vmem_bytes(num_tokens, width, outputs, num_heads, itemsize):
    """VMEM of one program of the backward pass, about: W and its gradient, tokens twice, and scores."""
    rows = -(-num_tokens // 16) * 16
    weight = width * outputs * 2 * (itemsize + 4)
    return weight + rows * outputs * (4 * itemsize + 8) + attention.vmem_bytes(num_tokens, width, num_heads, itemsize)


def _rows(group, lanes, groups):
    """The rows of W that belong to a group of heads."""
    return slice(None) if groups == 1 else pl.ds(group * lanes, lanes)


def _forward_kernel(codes_ref, start_ref, weight_ref, bias_ref, out_ref, moved_ref, total_ref, *, how, factor, groups):
    group = pl.program_id(2)
    attention.forward_kernel(codes_ref, moved_ref, **how)

    @pl.when(group == 0)
    def _():
        total_ref[...] = jnp.zeros_like(total_ref)

    rows = _rows(group, codes_ref.shape[-1], groups)
    total_ref[...] += product(moved_ref[0], weight_ref[rows, :], (1, 0))

    @pl.when(group == groups - 1)
    def _():
        added_NxD = factor * (total_ref[...] + bias_ref[...])
        out_ref[0] = (start_ref[0].astype(jnp.float32) + added_NxD).astype(out_ref.dtype)


def _backward_kernel(
    codes_ref, cotangent_ref, weight_ref, bias_ref, dcodes_ref, dbias_ref, dweight_ref, moved_ref, dmoved_ref,
    *, how, factor, groups,
):  # fmt: skip
    del bias_ref
    group = pl.program_id(2)

    @pl.when((pl.program_id(1) == 0) & (group == 0))
    def _():
        dbias_ref[...] = jnp.zeros_like(dbias_ref)
        dweight_ref[...] = jnp.zeros_like(dweight_ref)

    rows = _rows(group, codes_ref.shape[-1], groups)
    dmoved_ref[0] = (factor * product(cotangent_ref[0], weight_ref[rows, :], (1, 1))).astype(dmoved_ref.dtype)
    attention.backward_kernel(codes_ref, dmoved_ref, dcodes_ref, moved_ref, **how)
    dweight_ref[0, rows, :] += factor * product(moved_ref[0], cotangent_ref[0], (0, 0))

    @pl.when(group == 0)
    def _():
        dbias_ref[0] += factor * jnp.sum(cotangent_ref[0].astype(jnp.float32), 0, keepdims=True)


def _call(codes, tokens, weight, bias, *, num_heads, scale, factor, backward, interpret):
    """Either kernel over (half of the images, image, group of heads)."""
    images, count, width = codes.shape
    outputs, kind = weight.shape[1], codes.dtype
    group = attention.group_size(width, num_heads)
    groups, lanes = num_heads // group, width // num_heads * group
    parts = cores() if backward and images % cores() == 0 else 1
    turns = images // parts

    def spec(shape, place):
        return pl.BlockSpec(shape, place)

    by_group = spec((1, count, lanes), lambda part, turn, heads: (part * turns + turn, 0, heads))
    by_image = spec((1, count, outputs), lambda part, turn, heads: (part * turns + turn, 0, 0))
    whole = [spec(x.shape, lambda part, turn, heads: (0, 0)) for x in (weight, bias)]
    sums = [(1, outputs), (width, outputs)]
    if backward:
        shapes = [jax.ShapeDtypeStruct(codes.shape, kind)]
        shapes += [jax.ShapeDtypeStruct((parts, *shape), jnp.float32) for shape in sums]
        out_specs = [by_group, *(spec((1, *shape), lambda part, turn, heads: (part, 0, 0)) for shape in sums)]
    else:
        shapes, out_specs = [jax.ShapeDtypeStruct(tokens.shape, kind)], [by_image]
    scratch = [pltpu.VMEM((1, count, lanes), kind)]
    scratch += [pltpu.VMEM((1, count, lanes), kind) if backward else pltpu.VMEM((count, outputs), jnp.float32)]
    moved = sum(x.size * x.dtype.itemsize for x in (codes, tokens, weight, bias, *shapes))
    squares = images * count**2
    flops = 2 * (5 if backward else 2) * squares * width + 2 * (2 if backward else 1) * codes.size * outputs
    return pl.pallas_call(
        functools.partial(
            _backward_kernel if backward else _forward_kernel,
            how={"num_heads": group, "scale": scale}, factor=factor, groups=groups,
        ),
        out_shape=tuple(shapes),
        grid=(parts, turns, groups),
        in_specs=[by_group, by_image, *whole],
        out_specs=tuple(out_specs),
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary" if backward else "parallel", "arbitrary"),
            vmem_limit_bytes=vmem_limit(
                vmem_bytes(count, width, outputs, num_heads, kind.itemsize),
                f"{count} tokens of {width}",
                keeps="model.attention_kernel='pallas' with model.product_kernel='pallas' keeps a head's scores and a "
                "layer's matrix",
                instead="'xla' for one of them, or larger patches",
            ),
        ),
        cost_estimate=pl.CostEstimate(flops=flops, transcendentals=squares * num_heads, bytes_accessed=moved),
        interpret=interpret,
    )(codes, tokens, weight, bias)  # fmt: skip


def _run(codes, tokens, weight, bias, head_size, scale, factor, spec, *, backward):
    how = {"num_heads": codes.shape[-1] // head_size, "scale": scale, "factor": factor, "backward": backward}

    def local(*arrays):
        return on_platform(functools.partial(_call, **how), *arrays)

    whole = (weight.astype(codes.dtype), bias[None])
    return split_images(local, spec, 2, 2, 1, 2 if backward else 0)(codes, tokens, *whole)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def attention_step_tpu(start_BxNxD, codes_BxNxKP, weight_KPxD, bias_D, head_size, scale, factor, spec=None):
    """x + f (softmax(scale w_k w_k^T) w_k in every subspace, times W, + b).

    Args:
        start_BxNxD: x, float32 or bfloat16.
        codes_BxNxKP: w, heads side by side, in the dtype of x; products' operands have this type, sums are float32.
        weight_KPxD, bias_D: W and b, float32; so are their gradients.
        head_size: P.
        scale: of the logits.
        factor: f.
        spec: a `PartitionSpec` of the tokens over the mesh in force, of which only B may be split.

    Returns:
        Shape and dtype of x.

    Raises:
        UserError: W and the scores of one head do not fit into VMEM.
    """
    return _forward(start_BxNxD, codes_BxNxKP, weight_KPxD, bias_D, head_size, scale, factor, spec)[0]


def _forward(start_BxNxD, codes_BxNxKP, weight_KPxD, bias_D, head_size, scale, factor, spec):
    arrays = (codes_BxNxKP, start_BxNxD, weight_KPxD, bias_D)
    (out_BxNxD,) = _run(*arrays, head_size, scale, factor, spec, backward=False)
    return out_BxNxD, (codes_BxNxKP, weight_KPxD, bias_D)


def _backward(head_size, scale, factor, spec, residuals, cotangent_BxNxD):
    codes_BxNxKP, weight_KPxD, bias_D = residuals
    arrays = (codes_BxNxKP, cotangent_BxNxD.astype(codes_BxNxKP.dtype), weight_KPxD, bias_D)
    dcodes_BxNxKP, dbias_1xD, dweight_KPxD = _run(*arrays, head_size, scale, factor, spec, backward=True)
    return cotangent_BxNxD, dcodes_BxNxKP, dweight_KPxD.astype(weight_KPxD.dtype), dbias_1xD[0].astype(bias_D.dtype)


attention_step_tpu.defvjp(_forward, _backward)
