"""LayerNorm and the product after it as one Pallas kernel for TPU: p = LN(z) W, and z itself for a residual around it.

    dn = dp W^T,   dW = LN(z)^T dp,   dz = LN'(dn) + the cotangent of z

z is the only residual. One program has one image's tokens, all of W, and the sum of dW over the images before it, in
float32.
"""

import functools

import jax
import jax.numpy as jnp

from crate_jax.operators.kernels.normalised_tokens import normalised, normalised_backward
from crate_jax.operators.kernels.tpu_call import product, run_by_image


def vmem_bytes(num_tokens, width, outputs, itemsize):
    """VMEM of one program of the backward pass, about: W and its gradient, blocks twice, float32 between."""
    rows = -(-num_tokens // 16) * 16
    weight = width * outputs * 2 * (itemsize + 4)
    return weight + rows * (3 * width + outputs) * 2 * itemsize + rows * (6 * width + outputs) * 4


def _forward_kernel(z_ref, scale_ref, bias_ref, weight_ref, out_ref, *, epsilon):
    normed_NxD, _, _ = normalised(z_ref[0], scale_ref[...], bias_ref[...], epsilon)
    out_ref[0] = product(normed_NxD, weight_ref[...], (1, 0)).astype(out_ref.dtype)


def _backward_kernel(*refs, epsilon, residual):
    z_ref, dp_ref, *around = refs[: 2 + residual]
    scale_ref, bias_ref, weight_ref, dz_ref, dscale_ref, dbias_ref, dweight_ref = refs[2 + residual :]
    normed_NxD, unit_NxD, inverse_Nx1 = normalised(z_ref[0], scale_ref[...], bias_ref[...], epsilon)
    dweight_ref[0] += product(normed_NxD, dp_ref[0], (0, 0))
    dnormed_NxD = product(dp_ref[0], weight_ref[...], (1, 1))
    back_NxD, dscale_1xD, dbias_1xD = normalised_backward(dnormed_NxD, unit_NxD, inverse_Nx1, scale_ref[...])
    dscale_ref[0] += dscale_1xD
    dbias_ref[0] += dbias_1xD
    if residual:
        back_NxD += around[0][0].astype(jnp.float32)
    dz_ref[0] = back_NxD.astype(dz_ref.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def norm_product_tpu(z_BxNxD, scale_D, bias_D, weight_DxE, epsilon, residual, spec=None):
    """(z, LN(z) W), or LN(z) W alone.

    Args:
        z_BxNxD: tokens, float32 or bfloat16; the product's operands have this type, sums are float32.
        scale_D, bias_D: of the norm, float32.
        weight_DxE: W, float32; so is its gradient.
        epsilon: added to the variance.
        residual: True: z is returned as well, and its cotangent is added in the same pass.
        spec: a `PartitionSpec` of z over the mesh in force, of which only B may be split.

    Returns:
        Dtype of z.
    """
    return _forward(z_BxNxD, scale_D, bias_D, weight_DxE, epsilon, residual, spec)[0]


def _forward(z_BxNxD, scale_D, bias_D, weight_DxE, epsilon, residual, spec):
    width, outputs = weight_DxE.shape
    (out_BxNxE,) = run_by_image(
        functools.partial(_forward_kernel, epsilon=epsilon),
        images=(z_BxNxD,),
        whole=(scale_D[None], bias_D[None], weight_DxE.astype(z_BxNxD.dtype)),
        outputs=[outputs],
        sums=[],
        flops_per_token=2 * width * outputs,
        vmem_bytes=vmem_bytes(z_BxNxD.shape[1], width, outputs, z_BxNxD.dtype.itemsize),
        spec=spec,
    )
    return (z_BxNxD, out_BxNxE) if residual else out_BxNxE, (z_BxNxD, scale_D, bias_D, weight_DxE)


def _backward(epsilon, residual, spec, residuals, cotangent):
    z_BxNxD, scale_D, bias_D, weight_DxE = residuals
    around_BxNxD, dp_BxNxE = cotangent if residual else (None, cotangent)
    width, outputs = weight_DxE.shape
    dz_BxNxD, dscale_1xD, dbias_1xD, dweight_DxE = run_by_image(
        functools.partial(_backward_kernel, epsilon=epsilon, residual=residual),
        images=(z_BxNxD, dp_BxNxE.astype(z_BxNxD.dtype), *((around_BxNxD,) if residual else ())),
        whole=(scale_D[None], bias_D[None], weight_DxE.astype(z_BxNxD.dtype)),
        outputs=[width],
        sums=[(1, width), (1, width), (width, outputs)],
        flops_per_token=4 * width * outputs,
        vmem_bytes=vmem_bytes(z_BxNxD.shape[1], width, outputs, z_BxNxD.dtype.itemsize),
        spec=spec,
    )
    dtypes = scale_D.dtype, bias_D.dtype, weight_DxE.dtype
    sums = (dscale_1xD[0], dbias_1xD[0], dweight_DxE)
    return (dz_BxNxD, *(x.astype(dtype) for x, dtype in zip(sums, dtypes, strict=True)))


norm_product_tpu.defvjp(_forward, _backward)
