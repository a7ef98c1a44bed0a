"""The GELU MLP that follows attention in ToST and in a ViT; no white-box step, kept for the published networks.

z+ = z + W2 gelu(W1 LN(z) + b1) + b2            (the residual is the layer's)
"""

import flax.linen as nn
import jax

from crate_jax.models.layers.initializers import xavier, zeros
from crate_jax.models.layers.norm import LayerNorm
from crate_jax.models.layers.settings import Cost, LayerSettings
from crate_jax.models.layout import constrain, partitioned
from crate_jax.operators.affine import affine

MEANINGS = {
    "mlp_norm": "LayerNorm before the MLP",
    "up_kernel": "the MLP's hidden units",
    "down_kernel": "the MLP's hidden units back to tokens",
}


class Mlp(nn.Module):
    """W2 gelu(W1 LN(z) + b1) + b2."""

    settings: LayerSettings

    @nn.compact
    def __call__(self, z_BxNxD):
        width = z_BxNxD.shape[-1]
        hidden = self.settings.expansion * width
        x_BxNxD = LayerNorm(self.settings.layer_norm_epsilon, name="mlp_norm")(z_BxNxD)
        up_DxH = self.param("up_kernel", partitioned(xavier, "embed", "hidden"), (width, hidden))
        up_H = self.param("up_bias", partitioned(zeros, None), (hidden,))
        down_HxD = self.param("down_kernel", partitioned(xavier, "hidden", "embed"), (hidden, width))
        down_D = self.param("down_bias", partitioned(zeros, None), (width,))
        hidden_BxNxH = constrain(
            jax.nn.gelu(affine(x_BxNxD, up_DxH, up_H), approximate=False), "images", None, "hidden"
        )
        return affine(hidden_BxNxH, down_HxD, down_D)


def cost(settings, num_heads, width, tokens):
    """Two products."""
    linear = 4 * tokens * settings.expansion * width**2
    return Cost(linear, recomputed=linear)
