"""LayerNorm: each token to mean 0 and variance 1, then a learned scale and shift (Ba et al. 2016).

y = (z - mean(z)) / sqrt(var(z) + eps) * scale + bias          biased variance, over the token's entries
"""

import jax
import jax.numpy as jnp


def unit_length(z_BxNxD):
    """Tokens scaled to length one, float32. A token of zeros stays zero, and the gradient there is finite."""
    z32_BxNxD = z_BxNxD.astype(jnp.float32)
    square_BxNx1 = jnp.sum(jnp.square(z32_BxNxD), -1, keepdims=True)
    return z32_BxNxD * jax.lax.rsqrt(jnp.where(square_BxNx1 > 0, square_BxNx1, 1.0))


def layer_norm(z_BxNxD, scale_D, bias_D, *, epsilon):
    """LayerNorm of every token, in shape and dtype of z, float32 or bfloat16; statistics are float32 either way."""
    z32_BxNxD = z_BxNxD.astype(jnp.float32)
    centred = z32_BxNxD - jnp.mean(z32_BxNxD, -1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + epsilon)
    return (centred * inverse * scale_D + bias_D).astype(z_BxNxD.dtype)
