"""Overcomplete ISTA: sparse codes on a dictionary of `expansion` times the width (CRATE-alpha, arXiv 2405.20299).

a  = proximal gradient steps of non-negative LASSO of x = LN(z) on D (D x A), from 0
z+ = D1 a                                       D1 = D where the read-out is tied; z + D1 a with the residual
"""

import flax.linen as nn

from crate_jax.models.layers.initializers import kaiming
from crate_jax.models.layers.norm import LayerNorm, official_norm
from crate_jax.models.layers.settings import Cost, LayerSettings
from crate_jax.models.layout import partitioned
from crate_jax.operators.affine import product
from crate_jax.operators.overcomplete_ista import overcomplete_codes

OFFICIAL = (*official_norm("norm", "ista_norm"), ("fn.D", "dictionary", "same"), ("fn.D1", "readout", "same"))
MEANINGS = {"readout": "D1: what an atom adds to a token, in the place of D"}


class Overcomplete(nn.Module):
    """D1 a(LN(z)); the residual around it is the layer's."""

    settings: LayerSettings

    @nn.compact
    def __call__(self, z_BxNxD):
        settings, width = self.settings, z_BxNxD.shape[-1]
        x_BxNxD = LayerNorm(settings.layer_norm_epsilon, name="ista_norm")(z_BxNxD)
        atoms = partitioned(kaiming, "embed", "atoms")
        dictionary_DxA = readout_DxA = self.param("dictionary", atoms, (width, settings.expansion * width))
        if settings.readout == "free":
            readout_DxA = self.param("readout", atoms, (width, settings.expansion * width))
        codes_BxNxA = overcomplete_codes(
            x_BxNxD, dictionary_DxA, step_size=settings.eta, sparsity=settings.lambda_,
            steps=settings.sparsification_steps,
        )  # fmt: skip
        self.sow("intermediates", "sparse_codes", codes_BxNxA)
        return product(codes_BxNxA, readout_DxA, transposed=True)


def cost(settings, num_heads, width, tokens):
    """D^T x once, D a and D^T r in each further step, and the read-out."""
    one, steps = 2 * tokens * settings.expansion * width**2, settings.sparsification_steps
    return Cost(2 * steps * one, recomputed=steps * one)
