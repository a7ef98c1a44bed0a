"""The exact gradient step on the coding rate against the subspaces, through the layer's own LayerNorm.

    z+ = z - kappa / a grad_z R^c_eps(LN(z) | U),    a = P/(N eps^2)

In the codes w = LN(z) U_k that is w - kappa w (I + a w^T w)^-1: kappa of 1 removes directions far below the distortion,
and a step with kappa below 2 descends where U is orthonormal and tokens have unit variance. No N x N array: K factors
of P x P, or of N x N where N is smaller (`operators.coding_rate.coding_rate_gradient`).
"""

import jax

from crate_jax.models.layers.compression import Compression
from crate_jax.models.layers.settings import Cost
from crate_jax.operators.coding_rate import coding_rate_gradient
from crate_jax.operators.subspace_attention import split_heads


class RateGradient(Compression):
    """f(w) = -grad_z R^c(LN(z) | U) / a; the step is kappa f(w)."""

    def branch(self, step):
        tokens, size = step.z_BxNxD.shape[-2], step.codes_BxNxKP.shape[-1] // self.num_heads
        slope_BxNxKP = -tokens * self.settings.epsilon**2 / size * self.slope(step.codes_BxNxKP)
        return jax.vjp(step.norm, step.z_BxNxD)[1](step.projection(slope_BxNxKP))[0]

    def slope(self, codes_BxNxKP):
        """The gradient of R^c in the codes, in their shape."""
        codes_BxNxKxP = split_heads(codes_BxNxKP, self.num_heads)
        return coding_rate_gradient(codes_BxNxKxP, epsilon=self.settings.epsilon).reshape(codes_BxNxKP.shape)

    @property
    def output_projection(self):
        return "tied"  # the chain rule's U^T

    @property
    def adds(self):
        return False

    def change(self, step, branch_BxNxD):
        return (self.direction * self.kappa() * branch_BxNxD).astype(branch_BxNxD.dtype)


def cost(settings, num_heads, width, tokens):
    """U and U^T; a Gram matrix and two products with its factor per head, which itself is not counted."""
    attention = 6 * tokens * width * min(tokens, width // num_heads)
    return Cost(4 * tokens * width**2, attention, recomputed=2 * tokens * width**2 + attention)
