"""z W + b where z is narrow: the values in the type of z, the gradients of W and b in f32.

    y = z W + b        dz = g W^T in the type of z,        dW = sum over tokens of z^T g,  db = sum of g, both in f32

A parameter's gradient is a sum over every token of a batch, over every chip of a mesh. Autodiff makes it in the type of
the product; in bf16 it would be rounded on each chip and then added up in bf16. The products' inputs stay bf16 here,
their accumulator is what comes out (Micikevicius et al. 2018, arXiv 1710.03740, section 3.3).
"""

import functools

import jax
import jax.numpy as jnp


def product(z, weight_DxE, transposed=False):
    """z W.

    Args:
        z: tokens, ... x D, f32 or bf16.
        weight_DxE: W, rounded to the type of z for the product; its gradient is not.
        transposed: multiply by the transpose of what is given, E x D. (A transpose outside would transpose the f32
            gradient of a bf16 product, which XLA's CPU backend refuses to run.)

    Returns:
        ... x E, in the type of z.
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


def spread(parameter, like):
    """A bias, a token or a table, as large as `like` and in its type; its gradient is summed before it is rounded.

    Args:
        parameter: of a shape that broadcasts to that of `like`.
        like: an array.

    Returns:
        An array of the shape and type of `like`.
    """
    return jnp.broadcast_to(parameter, like.shape).astype(like.dtype)


def affine(z, weight_DxE, bias_E):
    """z W + b; arguments as in `product` and `spread`."""
    out = product(z, weight_DxE)
    return out + spread(bias_E, out)
