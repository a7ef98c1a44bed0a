"""z W + b in low precision, with gradients of W and b accumulated in float32.

    y = z W + b        dz = g W^T in the dtype of z,        dW = sum over tokens of z^T g,  db = sum of g, both float32

The gradient of a parameter is a sum over all tokens of a batch, on all devices of a mesh. Autodiff computes it in the
dtype of the product: in bf16 it would be rounded on each device and then added up in bf16. Here the operands of the
products are bf16, and their float32 accumulator is the result (Micikevicius et al. 2018, arXiv 1710.03740, section
3.3).
"""

import functools

import jax
import jax.numpy as jnp


def product(z, weight_DxE, transposed=False):
    """z W.

    Args:
        z: tokens, ... x D, float32 or bfloat16.
        weight_DxE: W, rounded to the dtype of z for the product; its gradient is not.
        transposed: multiply by the transpose of the given matrix, E x D. (A transpose outside would transpose the
            float32 gradient of a bf16 product, which XLA's CPU backend does not run.)

    Returns:
        ... x E, in the dtype of z.
    """
    if z.dtype == weight_DxE.dtype:
        return times_weight(z, weight_DxE, transposed)
    return _low_precision_product(z, weight_DxE, transposed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _low_precision_product(z, weight, transposed):
    return times_weight(z, weight, transposed)


def _forward(z, weight, transposed):
    return _low_precision_product(z, weight, transposed), (z, weight)


def _backward(transposed, residuals, cotangent):
    z, weight = residuals
    return times_weight(cotangent, weight, not transposed), weight_gradient(z, cotangent, weight.dtype, transposed)


_low_precision_product.defvjp(_forward, _backward)


def times_weight(z, weight, transposed=False):
    """z W, or z W^T, in the dtype of z, by plain autodiff."""
    weight = weight.astype(z.dtype)
    return z @ (weight.T if transposed else weight)


def weight_gradient(z, cotangent, dtype, transposed=False):
    """The gradient of W in z W, the sum over tokens of z^T g in float32; its transpose for z W^T."""
    if transposed:
        z, cotangent = cotangent, z
    leading = tuple(range(z.ndim - 1))
    total_DxE = jax.lax.dot_general(z, cotangent, ((leading, leading), ((), ())), preferred_element_type=jnp.float32)
    return total_DxE.astype(dtype)


def broadcast_rows(parameter, like):
    """A bias, a token or a table, broadcast to the shape and dtype of `like`; its gradient is summed in float32."""
    return jnp.broadcast_to(parameter, like.shape).astype(like.dtype)


def affine(z, weight_DxE, bias_E):
    """z W + b; arguments as in `product` and `broadcast_rows`."""
    out = product(z, weight_DxE)
    return out + broadcast_rows(bias_E, out)
