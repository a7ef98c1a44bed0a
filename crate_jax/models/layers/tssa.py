"""Token statistics self-attention: ToST's compression step, linear in the number of tokens (arXiv 2412.17810).

    z+ = z + gamma (TSSA(LN(z) U) W + b)            gamma: `layer_scale`; the minus sign is inside TSSA

With mask_mode="token" the identical mask tokens dominate the statistics; "drop" is the natural mode.
"""

import flax.linen as nn

from crate_jax.models.layers.compression import Compression, step_cost
from crate_jax.models.layout import partitioned
from crate_jax.operators.subspace_attention import split_heads
from crate_jax.operators.token_statistics import token_statistics_attention

MEANINGS = {"temperature": "of the softmax over subspaces, one per head"}


class TokenStatistics(Compression):
    """f(w) = -Pi w / (1 + s), projected back."""

    def branch(self, step):
        temperature_K = self.param("temperature", partitioned(nn.initializers.ones, None), (self.num_heads,))
        codes_BxNxKxP = split_heads(step.codes_BxNxKP, self.num_heads)
        moved_BxNxKxP = token_statistics_attention(codes_BxNxKxP, temperature_K)
        return step.projection(moved_BxNxKxP.reshape(step.codes_BxNxKP.shape))


def cost(settings, num_heads, width, tokens):
    """Statistics are a few operations per entry, not counted."""
    return step_cost(settings, num_heads, width, tokens)
