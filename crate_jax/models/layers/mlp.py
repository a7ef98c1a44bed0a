"""The GELU MLP that follows attention in ToST and in a ViT; no white-box step, kept for the published networks.

z+ = z + W2 gelu(W1 LN(z) + b1) + b2            (the residual is the layer's)
"""

import flax.linen as nn
import jax

from crate_jax.models.layers.initializers import linear
from crate_jax.models.layers.norm import LayerNorm
from crate_jax.models.layers.settings import Cost, LayerSettings
from crate_jax.models.layout import constrain
from crate_jax.operators.affine import affine

MEANINGS = {
    "mlp_norm": "LayerNorm before the MLP",
    "up_kernel": "the MLP's hidden units",
    "down_kernel": "the MLP's hidden units back to tokens",
}


def gelu_mlp(module, z_BxNxD, expansion, epsilon):
    """W2 gelu(W1 LN(z) + b1) + b2 with `expansion` times D hidden units, with parameters of `module`."""
    width, hidden = z_BxNxD.shape[-1], expansion * z_BxNxD.shape[-1]
    x_BxNxD = LayerNorm(epsilon, name="mlp_norm", parent=module)(z_BxNxD)
    hidden_BxNxH = affine(x_BxNxD, *linear(module, "up", (width, hidden), ("embed", "hidden")))
    hidden_BxNxH = constrain(jax.nn.gelu(hidden_BxNxH, approximate=False), "images", None, "hidden")
    return affine(hidden_BxNxH, *linear(module, "down", (hidden, width), ("hidden", "embed")))


class Mlp(nn.Module):
    """The MLP as a sparsification step."""

    settings: LayerSettings

    @nn.compact
    def __call__(self, z_BxNxD):
        return gelu_mlp(self, z_BxNxD, self.settings.expansion, self.settings.layer_norm_epsilon)


def cost(settings, num_heads, width, tokens):
    """Two products, of which the backward pass reads the first one's result alone."""
    one = 2 * tokens * settings.expansion * width**2
    return Cost(2 * one, recomputed=one)
