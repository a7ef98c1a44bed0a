"""Two terms of the Neumann series of the rate's gradient: the exact step without an inverse, linear in the tokens.

    grad R^c = a w (I + a w^T w)^-1 = a w - a^2 w (w^T w) + ...,      a = P/(N eps^2),  w = LN(z) U_k
    z+       = z - kappa (w - a w (w^T w)) U^T

The series converges where a ||w||_2^2 < 1, so eps must be large; MSSA keeps the second term alone, with a softmax.
"""

import jax.numpy as jnp

from crate_jax.models.layers.gradient import RateGradient
from crate_jax.models.layers.settings import Cost
from crate_jax.operators.subspace_attention import split_heads


class NeumannGradient(RateGradient):
    """f(w) = -(w - a w (w^T w)) U^T, through the layer's LayerNorm; the step is kappa f(w)."""

    def slope(self, codes_BxNxKP):
        codes_BxNxKxP = split_heads(codes_BxNxKP, self.num_heads).astype(jnp.float32)
        scale = codes_BxNxKxP.shape[-1] / (codes_BxNxKxP.shape[1] * self.settings.epsilon**2)
        gram_BxKxPxP = jnp.einsum("bnkp,bnkq->bkpq", codes_BxNxKxP, codes_BxNxKxP, precision="highest")
        second_BxNxKxP = jnp.einsum("bnkp,bkpq->bnkq", codes_BxNxKxP, gram_BxKxPxP, precision="highest")
        slope_BxNxKxP = scale * codes_BxNxKxP - scale**2 * second_BxNxKxP
        return slope_BxNxKxP.astype(codes_BxNxKP.dtype).reshape(codes_BxNxKP.shape)


def cost(settings, num_heads, width, tokens):
    """U and U^T, a Gram matrix and a product with it per head."""
    attention = 4 * tokens * width * (width // num_heads)
    return Cost(4 * tokens * width**2, attention, recomputed=2 * tokens * width**2 + attention)
