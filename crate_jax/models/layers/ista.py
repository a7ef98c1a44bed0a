"""ISTA: CRATE's sparsification step, one proximal gradient step against a square dictionary (arXiv 2404.02446).

z+ = ISTA(LN(z) | D) = ReLU(x + eta D^T (x - D x) - eta lambda),   x = LN(z)
"""

import flax.linen as nn

from crate_jax.models.layers.initializers import kaiming
from crate_jax.models.layers.norm import LayerNorm, official_norm
from crate_jax.models.layers.settings import Cost, LayerSettings
from crate_jax.models.layout import partitioned, token_spec
from crate_jax.operators.normalised import normalised_ista

# the official ISTA multiplies x by W^T where the paper has D z: W is D as it stands
OFFICIAL = (*official_norm("norm", "ista_norm"), ("fn.weight", "dictionary", "same"))
MEANINGS = {"dictionary": "D: ISTA's dictionary, atoms in columns", "ista_norm": "LayerNorm before {sparsification}"}


class Ista(nn.Module):
    """ISTA(LN(z) | D); the residual around it is the layer's."""

    settings: LayerSettings

    @nn.compact
    def __call__(self, z_BxNxD):
        width, norm = z_BxNxD.shape[-1], LayerNorm(self.settings.layer_norm_epsilon, name="ista_norm")
        dictionary_DxD = self.param("dictionary", partitioned(kaiming, "embed", "atoms"), (width, width))
        codes_BxNxD = normalised_ista(
            z_BxNxD, *norm(z_BxNxD, parameters_only=True), dictionary_DxD, epsilon=norm.epsilon,
            step_size=self.settings.eta, sparsity=self.settings.lambda_, kernel=self.settings.product_kernel,
            spec=token_spec(z_BxNxD),
        )  # fmt: skip
        self.sow("intermediates", "sparse_codes", codes_BxNxD)
        return codes_BxNxD


def cost(settings, num_heads, width, tokens):
    """D x and D^T r; of a rematerialised layer the kernel repeats both, plain XLA the first."""
    products = 2 if settings.product_kernel == "pallas" else 1
    return Cost(4 * tokens * width**2, recomputed=2 * products * tokens * width**2)
