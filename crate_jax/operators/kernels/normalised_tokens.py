"""LayerNorm inside a kernel, and its backward pass by hand; statistics are float32.

h = (z - mean(z)) / sqrt(var(z) + eps)         y = h * scale + bias
dz = (u - mean(u) - h mean(u h)) / sqrt(var(z) + eps),   u = dy * scale
"""

import jax
import jax.numpy as jnp


def normalised(z_NxD, scale_1xD, bias_1xD, epsilon):
    """(y in the dtype of z, h, 1 / deviation); the last two float32."""
    f32_NxD = z_NxD.astype(jnp.float32)
    centred_NxD = f32_NxD - jnp.mean(f32_NxD, 1, keepdims=True)
    inverse_Nx1 = jax.lax.rsqrt(jnp.mean(jnp.square(centred_NxD), 1, keepdims=True) + epsilon)
    unit_NxD = centred_NxD * inverse_Nx1
    return (unit_NxD * scale_1xD + bias_1xD).astype(z_NxD.dtype), unit_NxD, inverse_Nx1


def normalised_backward(cotangent_NxD, unit_NxD, inverse_Nx1, scale_1xD):
    """(dz, dscale_1xD, dbias_1xD) from dy, all float32; the last two summed over the N tokens."""
    slope_NxD = cotangent_NxD * scale_1xD
    along_Nx1 = jnp.mean(slope_NxD * unit_NxD, 1, keepdims=True)
    back_NxD = (slope_NxD - jnp.mean(slope_NxD, 1, keepdims=True) - unit_NxD * along_Nx1) * inverse_Nx1
    dscale_1xD = jnp.sum(cotangent_NxD * unit_NxD, 0, keepdims=True)
    return back_NxD, dscale_1xD, jnp.sum(cotangent_NxD, 0, keepdims=True)
