"""Multi-head subspace self-attention: CRATE's compression step (Pai et al. 2024, arXiv 2404.02446, section 2).

z+ = z + MSSA(LN(z) | U),        MSSA = [U_1 .. U_K] softmax(scale w_k w_k^T) w_k side by side
"""

import jax.numpy as jnp

from crate_jax.models.layers.compression import Compression, step_cost
from crate_jax.models.layout import spec_of, token_spec
from crate_jax.operators.residuals import name_residual
from crate_jax.operators.subspace_attention import attend


class SubspaceAttention(Compression):
    """f(w) = softmax(scale w w^T) w in every subspace, projected back."""

    def scale(self, width):
        """Factor of the logits: P^-1/2 (official) or 1 (paper)."""
        return 1.0 if self.settings.attention_scale == "paper" else (width // self.num_heads) ** -0.5

    def branch(self, step):
        codes_BxNxKP, projection = step.codes_BxNxKP, step.projection
        moved_BxNxD = attend(
            codes_BxNxKP, num_heads=self.num_heads, scale=self.scale(codes_BxNxKP.shape[-1]),
            kernel=self.settings.attention_kernel,
            spec=spec_of((codes_BxNxKP.shape[0], 1, self.num_heads), "images", None, "heads"),
            weight_KPxD=projection.matrix, transposed=projection.transposed,
        )  # fmt: skip
        return projection.add_bias(moved_BxNxD)

    def fused(self, step, factor):
        kernels, projection = {self.settings.attention_kernel, self.settings.product_kernel}, step.projection
        if kernels != {"pallas"} or projection.matrix is None:
            return super().fused(step, factor)
        from crate_jax.operators.kernels.attention_step_tpu import attention_step_tpu

        width = step.codes_BxNxKP.shape[-1]
        matrix = projection.matrix.T if projection.transposed else projection.matrix
        bias_D = jnp.zeros(width) if projection.bias_D is None else projection.bias_D
        moved_BxNxD = attention_step_tpu(
            step.start_BxNxD, step.codes_BxNxKP, matrix, bias_D,
            width // self.num_heads, self.scale(width), factor, token_spec(step.start_BxNxD),
        )  # fmt: skip
        return name_residual(moved_BxNxD, "compressed")


def cost(settings, num_heads, width, tokens):
    """Scores and weighted sum, for which the backward pass needs three products, not four."""
    repeating = ("pallas", "recompute", "cudnn")
    return step_cost(settings, num_heads, width, tokens, 4 * tokens**2 * width, 2.5, repeating)
