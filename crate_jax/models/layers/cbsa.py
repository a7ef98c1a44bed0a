"""Contract-and-broadcast self-attention: compression through M representatives (CBSA, arXiv 2509.16875).

    z+ = z + (CBSA(LN(z) U) W + b),  linear in the number of tokens

The representatives are pooled from the grid of patches; where masked patches are dropped, from the visible tokens in
order.
"""

import flax.linen as nn

from crate_jax.models.layers.compression import Compression, step_cost
from crate_jax.models.layout import partitioned, spec_of
from crate_jax.operators.contract_broadcast import contract_broadcast_attention
from crate_jax.operators.subspace_attention import split_heads

MEANINGS = {
    "step_tokens": "s_x: step of the tokens, one per head",
    "step_representatives": "s_r: step of the representatives towards the tokens, one per head",
}


class ContractBroadcast(Compression):
    """f(w) = s_x A^T softmax(R' R'^T / sqrt P) R', projected back."""

    def branch(self, step):
        start = partitioned(nn.initializers.normal(1.0), None)
        step_tokens_K = self.param("step_tokens", start, (self.num_heads,))
        step_representatives_K = self.param("step_representatives", start, (self.num_heads,))
        moved_BxNxKxP = contract_broadcast_attention(
            split_heads(step.codes_BxNxKP, self.num_heads), self.grid, step_tokens_K=step_tokens_K,
            step_representatives_K=step_representatives_K, pool=self.settings.pool_size,
            class_token=self.settings.pool_class_token, kernel=self.settings.attention_kernel,
            spec=spec_of((step.codes_BxNxKP.shape[0], 1, self.num_heads), "images", None, "heads"),
        )  # fmt: skip
        return step.projection(moved_BxNxKxP.reshape(step.codes_BxNxKP.shape))


def cost(settings, num_heads, width, tokens):
    """Three products of M x N and one pair of M x M per head."""
    representatives = settings.pool_size**2
    attention = 2 * width * (3 * representatives * tokens + 2 * representatives**2)
    return step_cost(settings, num_heads, width, tokens, attention, repeating=("pallas",))
