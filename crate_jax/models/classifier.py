"""Classifiers: an encoder, one token out of it, and a linear head.

    crate_classifier_*, vit_classifier_*   the encoder of a CRATE-MAE or ViT-MAE, by the same names, so that pre-trained
                                           parameters drop in; sine-cosine positions
    crate_*                                the supervised CRATE (Yu et al. 2023, arXiv 2306.01129; official
                                           `model/crate.py`): LayerNorm around the embedding, learned positions

Stochastic depth (Huang et al. 2016) leaves a step out for some images of a training batch, with a rate that grows
linearly over the layers. A CRATE has a residual around compression only, so that is all it can leave out.
"""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.models.blocks import EncoderLayer, LayerNorm, ViTLayer, compression_fields, xavier, zeros
from crate_jax.models.layer_stack import run_layers
from crate_jax.models.layout import constrain, split_along
from crate_jax.operators.affine import affine, spread
from crate_jax.operators.patches import patchify
from crate_jax.operators.positions import resize_positions, sincos_positions


@flax.struct.dataclass
class Classified:
    """What a classifier returns.

    Attributes:
        logits_BxC: one number a class, f32.
        latent_BxTxD: the encoder's tokens after its final norm, class token first.
    """

    logits_BxC: jax.Array
    latent_BxTxD: jax.Array


class Classifier(nn.Module):
    """The frame; use `CrateClassifier`, `VitClassifier` or `Crate`.

    Attributes:
        image_size, patch_size, channels: of the images, pixels.
        width, depth, num_heads: of the encoder.
        num_classes: C.
        pooling: what the head reads: "cls", the class token, or "mean", that of the patches (then normed, as MAE does).
        drop_path: fraction of images for which the last layer's steps are left out in training.
        learned_positions: the position table is a parameter, and begins as the sine-cosine one.
        table_image_size: pixels that the position table was made for, resized to others; None: image_size.
        dtype: of the computation; parameters are float32.
        scan_layers, remat: how the stack of layers is compiled (`layer_stack`).
    """

    image_size: int = 224
    patch_size: int = 16
    channels: int = 3
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    num_classes: int = 1000
    pooling: str = "cls"
    drop_path: float = 0.0
    learned_positions: bool = False
    table_image_size: int | None = None
    dtype: Any = jnp.float32
    scan_layers: bool = False
    remat: str = "none"

    embedding_norms = False  # LayerNorm before and after the embedding
    norm_epsilon = 1e-6
    branches = 1  # steps of a layer that have a residual

    def encoder_layer(self, **kwargs):
        """A layer of the encoder."""
        raise TypeError(f"{type(self).__name__} does not say what a layer is")

    @property
    def grid(self):
        """(rows, columns) of patches that the position table was made for."""
        return ((self.table_image_size or self.image_size) // self.patch_size,) * 2

    @property
    def num_patches(self):
        """N at the image size that the network was made for."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def encoder_names(self):
        """Names of the encoder's layers, first to last."""
        return [f"encoder_{index:02d}" for index in range(self.depth)]

    def setup(self):
        pixels = self.patch_size**2 * self.channels
        if self.embedding_norms:
            self.patch_norm = LayerNorm()
            self.embedding_norm = LayerNorm()
        self.embedding_kernel = self.param(
            "embedding_kernel", split_along(xavier, "pixels", "embed"), (pixels, self.width)
        )
        self.embedding_bias = self.param("embedding_bias", split_along(zeros, None), (self.width,))
        self.class_token = self.param("class_token", split_along(self.class_token_init, None), (self.width,))
        if self.learned_positions:
            tokens = self.grid[0] * self.grid[1] + 1
            self.position_table = self.param(
                "position_table", split_along(self.position_init, None, None), (tokens, self.width)
            )
        for name in self.encoder_names:
            setattr(self, name, self.encoder_layer())
        self.encoder_norm = LayerNorm(self.norm_epsilon)
        small = nn.initializers.truncated_normal(2e-5)  # MAE's: the first step moves the head only
        self.head_kernel = self.param(
            "head_kernel", split_along(small, "embed", "classes"), (self.width, self.num_classes)
        )
        self.head_bias = self.param("head_bias", split_along(zeros, None), (self.num_classes,))

    class_token_init = staticmethod(nn.initializers.normal(0.02))

    def position_init(self, key, shape, dtype=jnp.float32):
        """What a learned table begins as."""
        return jnp.asarray(sincos_positions(self.grid, self.width), dtype)

    def embed(self, images_BxHxWxC):
        """Images to the tokens z_BxTxD that the first layer reads."""
        patches_BxNxF = patchify(images_BxHxWxC.astype(self.dtype), self.patch_size)
        if self.embedding_norms:
            patches_BxNxF = self.patch_norm(patches_BxNxF)
        z_BxNxD = affine(patches_BxNxF, self.embedding_kernel, self.embedding_bias)
        if self.embedding_norms:
            z_BxNxD = self.embedding_norm(z_BxNxD)
        class_Bx1xD = spread(self.class_token, z_BxNxD[:, :1])
        table_TxD = self.position_table if self.learned_positions else sincos_positions(self.grid, self.width)
        grid = tuple(size // self.patch_size for size in images_BxHxWxC.shape[1:3])
        z_BxTxD = jnp.concatenate([class_Bx1xD, z_BxNxD], 1)
        table_BxTxD = spread(resize_positions(table_TxD, self.grid, grid), z_BxTxD)
        return constrain(z_BxTxD + table_BxTxD, "images", None, None)

    def kept_branches(self, batch):
        """L x S x B x 1 x 1: what is left of each layer's S residual steps, 0 or 1 / (1 - rate); f32."""
        rate_L = jnp.linspace(0.0, self.drop_path, self.depth) if self.depth > 1 else jnp.full(1, self.drop_path)
        keep_Lx1x1 = 1 - rate_L[:, None, None]
        drawn_LxSxB = jax.random.uniform(self.make_rng("dropout"), (self.depth, self.branches, batch))
        return jnp.where(drawn_LxSxB < keep_Lx1x1, 1 / keep_Lx1x1, 0)[..., None, None]

    def _tokens(self, images_BxHxWxC, train):
        z_BxTxD = self.embed(images_BxHxWxC)
        keep = self.kept_branches(z_BxTxD.shape[0]) if train and self.drop_path else None
        return run_layers(
            self, "encoder", self.encoder_names, self.encoder_layer(parent=None), z_BxTxD,
            scan=self.scan_layers, remat=self.remat, keep=keep,
        )  # fmt: skip

    def encode(self, images_BxHxWxC):
        """Images to latent_BxTxD, the encoder's tokens after the final norm."""
        return self.encoder_norm(self._tokens(images_BxHxWxC, False))

    def pool(self, z_BxTxD):
        """The token that the head reads, before the norm: B x D."""
        return z_BxTxD[:, 0] if self.pooling == "cls" else jnp.mean(z_BxTxD[:, 1:], 1)

    def __call__(self, images_BxHxWxC, *, train=False):
        """Classifies images.

        Args:
            images_BxHxWxC: normalised; H and W are multiples of the patch.
            train: stochastic depth is on; needs an rng named "dropout" where drop_path is not 0.

        Returns:
            A `Classified`.
        """
        z_BxTxD = self._tokens(images_BxHxWxC, train)
        pooled_BxD = self.encoder_norm(self.pool(z_BxTxD))
        logits_BxC = affine(pooled_BxD, self.head_kernel, self.head_bias)
        return Classified(logits_BxC.astype(jnp.float32), self.encoder_norm(z_BxTxD))


class CrateClassifier(Classifier):
    """The encoder of a CRATE-MAE and a head.

    Attributes, beside the frame's: those of `CrateMae`'s layers.
    """

    eta: float = 0.1
    lambda_: float = 0.5
    output_projection: str = "learned"
    skip: str = "input"
    attention_scale: str = "official"
    kappa: float = 1.0
    epsilon: float = 0.5
    attention_kernel: str = "auto"
    product_kernel: str = "auto"

    def encoder_layer(self, **kwargs):
        return EncoderLayer(compression_fields(self, self.num_heads), self.eta, self.lambda_, **kwargs)


class VitClassifier(Classifier):
    """ViT (Dosovitskiy et al. 2021), as MAE fine-tunes it and timm names it."""

    branches = 2

    def encoder_layer(self, **kwargs):
        return ViTLayer(self.num_heads, **kwargs)


class Crate(CrateClassifier):
    """The supervised CRATE. As in the official code, "mean" is that of all tokens, and the final norm is the head's."""

    learned_positions: bool = True
    lambda_: float = 0.1

    embedding_norms = True
    norm_epsilon = 1e-5
    class_token_init = staticmethod(nn.initializers.normal(1.0))

    def position_init(self, key, shape, dtype=jnp.float32):
        return jax.random.normal(key, shape, dtype)

    def pool(self, z_BxTxD):
        return z_BxTxD[:, 0] if self.pooling == "cls" else jnp.mean(z_BxTxD, 1)
