"""The transformer layer of ViT and MAE, the baseline: attention and a GELU MLP, each with a residual.

z' = z + W_o softmax(q k^T / sqrt P) v + b_o;      z+ = z' + MLP(LN(z'))
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.models.layers.initializers import linear
from crate_jax.models.layers.mlp import gelu_mlp
from crate_jax.models.layers.norm import LayerNorm, official_norm
from crate_jax.models.layers.settings import Cost
from crate_jax.models.layers.stochastic_depth import drop_path
from crate_jax.models.layout import constrain
from crate_jax.operators.affine import affine
from crate_jax.operators.subspace_attention import TOKENS_WORTH_IT, cudnn_attention, split_heads

_DENSE = (("attn.qkv", "qkv"), ("attn.proj", "output"), ("mlp.fc1", "up"), ("mlp.fc2", "down"))
OFFICIAL = (  # Meta's and timm's names
    *official_norm("norm1", "attention_norm"),
    *official_norm("norm2", "mlp_norm"),
    *((f"{theirs}.weight", f"{ours}_kernel", "matrix") for theirs, ours in _DENSE),
    *((f"{theirs}.bias", f"{ours}_bias", "same") for theirs, ours in _DENSE),
)
MEANINGS = {
    "qkv_kernel": "query, key and value side by side: three matrices where CRATE has one",
    "output_kernel": "attention's output projection",
    "up_kernel": "the MLP's hidden units, four times the width",
}


class ViTLayer(nn.Module):
    """A transformer layer with an MLP of four times the width."""

    num_heads: int  # K
    attention_kernel: str = "auto"

    @nn.compact
    def __call__(self, z_BxNxD, keep_2xBx1x1=(None, None)):
        width = z_BxNxD.shape[-1]
        self.sow("intermediates", "input", z_BxNxD)
        normed_BxNxD = LayerNorm(1e-6, name="attention_norm")(z_BxNxD)
        self.sow("intermediates", "normed", normed_BxNxD)
        qkv_BxNx3D = affine(normed_BxNxD, *linear(self, "qkv", (width, 3 * width), ("embed", "heads")))
        qkv_BxNx3D = constrain(qkv_BxNx3D, "images", None, "heads")
        query, key, value = (split_heads(x, self.num_heads) for x in jnp.split(qkv_BxNx3D, 3, -1))
        self.sow("intermediates", "query", query)
        self.sow("intermediates", "key", key)
        attended_BxNxD = attention(query, key, value, self.attention_kernel).reshape(z_BxNxD.shape)
        attended_BxNxD = affine(attended_BxNxD, *linear(self, "output", (width, width), ("heads", "embed")))
        z_BxNxD = z_BxNxD + drop_path(constrain(attended_BxNxD, "images", None, None), keep_2xBx1x1[0])
        self.sow("intermediates", "compressed", z_BxNxD)
        mlp_BxNxD = constrain(gelu_mlp(self, z_BxNxD, 4, 1e-6), "images", None, None)
        z_BxNxD = z_BxNxD + drop_path(mlp_BxNxD, keep_2xBx1x1[1])
        self.sow("intermediates", "output", z_BxNxD)
        return z_BxNxD


def attention(query_BxNxKxP, key_BxNxKxP, value_BxNxKxP, kernel="auto"):
    """softmax(q k^T / sqrt P) v; dispatches on `kernel` as `operators.subspace_attention.attend` does."""
    arrays = query_BxNxKxP, key_BxNxKxP, value_BxNxKxP
    if kernel == "cudnn" and query_BxNxKxP.shape[1] >= TOKENS_WORTH_IT:
        return cudnn_attention(*arrays, query_BxNxKxP.shape[-1] ** -0.5)
    plain = jax.nn.dot_product_attention
    return (jax.checkpoint(plain) if kernel == "recompute" else plain)(*arrays)


def cost(width, tokens, kernel="auto"):
    """Arithmetic of a layer's forward pass on one image: twelve products of D x D per token, and the attention.

    A rematerialised layer repeats all but the four of the MLP's second product, whose result nothing reads.
    """
    linear, attention = 24 * tokens * width**2, 4 * tokens**2 * width
    repeated = attention if kernel in ("recompute", "cudnn") else 0.0
    return Cost(linear, attention, recomputed=linear * 2 / 3 + attention, repeated=repeated)
