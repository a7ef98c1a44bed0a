"""LayerNorm and ISTA as one Pallas kernel for TPU, forward and backward.

    n = LN(z),   r = n - n D^T,   a = ReLU(n + eta (r D - lambda))
    d = da where a > 0,   e = eta d D^T,   dn = d + e - e D,   dD = eta r^T d - e^T n,   dz = LN'(dn)

z, r and a are saved for the backward pass; a is the next layer's input anyway. One program has one image's tokens, all
of D, and the sum of dD over the images before it, in float32.
"""

import functools

import jax
import jax.numpy as jnp

from crate_jax.operators.kernels.normalised_tokens import normalised, normalised_backward
from crate_jax.operators.kernels.tpu_call import product, run_by_image


def vmem_bytes(num_tokens, width, itemsize):
    """VMEM of one program of the backward pass, about: D and its gradient, blocks twice, float32 between."""
    rows = -(-num_tokens // 16) * 16
    return width**2 * 2 * (itemsize + 4) + rows * width * (5 * 2 * itemsize + 8 * 4)


def _forward_kernel(z_ref, scale_ref, bias_ref, dictionary_ref, code_ref, residual_ref, *, epsilon, eta, sparsity):
    normed_NxD, _, _ = normalised(z_ref[0], scale_ref[...], bias_ref[...], epsilon)
    f32_NxD = normed_NxD.astype(jnp.float32)
    residual_NxD = (f32_NxD - product(normed_NxD, dictionary_ref[...], (1, 1))).astype(z_ref.dtype)
    residual_ref[0] = residual_NxD
    moved_NxD = f32_NxD + eta * (product(residual_NxD, dictionary_ref[...], (1, 0)) - sparsity)
    code_ref[0] = jnp.maximum(moved_NxD, 0).astype(code_ref.dtype)


def _backward_kernel(
    z_ref, residual_ref, code_ref, dcode_ref, scale_ref, bias_ref, dictionary_ref,
    dz_ref, dscale_ref, dbias_ref, ddictionary_ref,
    *, epsilon, eta,
):  # fmt: skip
    normed_NxD, unit_NxD, inverse_Nx1 = normalised(z_ref[0], scale_ref[...], bias_ref[...], epsilon)
    active_NxD = code_ref[0].astype(jnp.float32) > 0
    f32_NxD = jnp.where(active_NxD, dcode_ref[0].astype(jnp.float32), 0.0)
    passed_NxD = f32_NxD.astype(z_ref.dtype)
    back_NxD = eta * product(passed_NxD, dictionary_ref[...], (1, 1))
    low_NxD = back_NxD.astype(z_ref.dtype)
    ddictionary_ref[0] += eta * product(residual_ref[0], passed_NxD, (0, 0)) - product(low_NxD, normed_NxD, (0, 0))
    dnormed_NxD = f32_NxD + back_NxD - product(low_NxD, dictionary_ref[...], (1, 0))
    dz_NxD, dscale_1xD, dbias_1xD = normalised_backward(dnormed_NxD, unit_NxD, inverse_Nx1, scale_ref[...])
    dscale_ref[0] += dscale_1xD
    dbias_ref[0] += dbias_1xD
    dz_ref[0] = dz_NxD.astype(dz_ref.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def norm_ista_tpu(z_BxNxD, scale_D, bias_D, dictionary_DxD, epsilon, step_size, sparsity, spec=None):
    """ISTA(LN(z) | D).

    Args:
        z_BxNxD: tokens, float32 or bfloat16; products' operands have this type, sums are float32.
        scale_D, bias_D: of the norm, float32.
        dictionary_DxD: D, atoms in columns, float32; so is its gradient.
        epsilon: added to the variance.
        step_size, sparsity: eta and lambda.
        spec: a `PartitionSpec` of z over the mesh in force, of which only B may be split.

    Returns:
        Shape and dtype of z.
    """
    return _forward(z_BxNxD, scale_D, bias_D, dictionary_DxD, epsilon, step_size, sparsity, spec)[0]


def _run(kernel, images, whole, *, outputs, sums, products, spec):
    """The kernel on every image; it costs `products` of N x D x D each."""
    _, tokens, width = images[0].shape
    return run_by_image(
        kernel,
        images=images,
        whole=whole,
        outputs=[width] * outputs,
        sums=sums,
        flops_per_token=2 * products * width**2,
        vmem_bytes=vmem_bytes(tokens, width, images[0].dtype.itemsize),
        spec=spec,
    )


def _forward(z_BxNxD, scale_D, bias_D, dictionary_DxD, epsilon, step_size, sparsity, spec):
    kernel = functools.partial(_forward_kernel, epsilon=epsilon, eta=step_size, sparsity=sparsity)
    whole = (scale_D[None], bias_D[None], dictionary_DxD.astype(z_BxNxD.dtype))
    code_BxNxD, residual_BxNxD = _run(kernel, (z_BxNxD,), whole, outputs=2, sums=[], products=2, spec=spec)
    return code_BxNxD, (z_BxNxD, residual_BxNxD, code_BxNxD, scale_D, bias_D, dictionary_DxD)


def _backward(epsilon, step_size, sparsity, spec, residuals, dcode_BxNxD):
    z_BxNxD, residual_BxNxD, code_BxNxD, scale_D, bias_D, dictionary_DxD = residuals
    kernel = functools.partial(_backward_kernel, epsilon=epsilon, eta=step_size)
    images = (z_BxNxD, residual_BxNxD, code_BxNxD, dcode_BxNxD.astype(z_BxNxD.dtype))
    whole = (scale_D[None], bias_D[None], dictionary_DxD.astype(z_BxNxD.dtype))
    width = dictionary_DxD.shape[0]
    sums = [(1, width), (1, width), (width, width)]
    results = _run(kernel, images, whole, outputs=1, sums=sums, products=4, spec=spec)
    dz_BxNxD, dscale_1xD, dbias_1xD, ddictionary_DxD = results
    slopes = (dscale_1xD[0], dbias_1xD[0], ddictionary_DxD)
    kinds = (scale_D.dtype, bias_D.dtype, dictionary_DxD.dtype)
    return (dz_BxNxD, *(x.astype(kind) for x, kind in zip(slopes, kinds, strict=True)))


norm_ista_tpu.defvjp(_forward, _backward)
