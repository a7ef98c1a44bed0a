"""The encoder that masked autoencoders and classifiers share: patches and positions to tokens, through a stack.

Masked patches, by mode:

    token   become the mask token before the encoder; every token passes through it (official CRATE-MAE)
    zero    keep their place with pixels of zero, the mean colour (paper)
    drop    are left out of the encoder (He et al. 2022, MAE)
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from crate_jax.errors import UserError
from crate_jax.models.layers.crate import EncoderLayer
from crate_jax.models.layers.initializers import linear, zeros
from crate_jax.models.layers.norm import LayerNorm
from crate_jax.models.layers.settings import LayerSettings, settings_of
from crate_jax.models.layers.vit import ViTLayer
from crate_jax.models.layout import constrain, partitioned
from crate_jax.models.stacks import apply_stack, layer_names, stack_parameters
from crate_jax.operators.affine import affine, broadcast_rows
from crate_jax.operators.patches import grid_of, patchify
from crate_jax.operators.positions import resize_positions, sincos_positions


class Encoder(nn.Module):
    """Patch embedding, a stack of layers and a norm. A subclass adds what follows, a family defines the layer.

    A family (`WhiteBox`, `Transformer`) has `branches`, the residual branches of a layer for stochastic depth, and
    `encoder_layer(grid)`, an unbound layer for tokens of a full grid of patches or (None) of some of them.
    """

    image_size: Any = 224  # pixels: one number, or (height, width)
    patch_size: int = 16  # pixels
    channels: int = 3
    width: int = 768  # D
    depth: int = 12  # number of layers
    num_heads: int = 12  # K
    table_image_size: Any = None  # that the position table was made for, resized to others; None: image_size
    dtype: Any = jnp.float32  # of the computation; parameters are float32
    scan_layers: bool = False  # how the stack of layers is compiled, see `models.stacks`
    remat: str = "none"

    learned_positions = False
    embedding_norms = False  # LayerNorm before and after the embedding
    norm_epsilon = 1e-6  # of the norm after the last layer
    class_token_init = staticmethod(nn.initializers.normal(0.02))
    embedding_bias_init = staticmethod(zeros)

    @property
    def grid(self):
        """(rows, columns) of patches at the image size that the network was made for."""
        return grid_of(self.image_size, self.patch_size)

    @property
    def table_grid(self):
        """(rows, columns) that the position table was made for."""
        return grid_of(self.table_image_size or self.image_size, self.patch_size)

    @property
    def num_patches(self):
        """N at the image size that the network was made for."""
        return self.grid[0] * self.grid[1]

    @property
    def encoder_names(self):
        """Names of the encoder's layers, first to last."""
        return layer_names("encoder", self.depth)

    def encoder_parameters(self):
        """Declares the encoder's parameters; called by `setup`."""
        pixels = self.patch_size**2 * self.channels
        if self.embedding_norms:
            self.patch_norm = LayerNorm()
            self.embedding_norm = LayerNorm()
        shape, axes = (pixels, self.width), ("pixels", "embed")
        self.embedding = linear(self, "embedding", shape, axes, bias=self.embedding_bias_init)
        self.class_token = self.param("class_token", partitioned(self.class_token_init, None), (self.width,))
        if self.learned_positions:
            shape = (self.table_grid[0] * self.table_grid[1] + 1, self.width)
            self.position_table = self.param("position_table", partitioned(self.position_init, None, None), shape)
        self.encoder = stack_parameters(self, "encoder", self.encoder_layer(), self.depth, self.width)
        self.encoder_norm = LayerNorm(self.norm_epsilon)

    def position_init(self, key, shape, dtype=jnp.float32):
        """Initial value of a learned position table."""
        return jnp.asarray(sincos_positions(self.table_grid, self.width), dtype)

    def resized_positions(self, width, grid):
        """The position table resized to a grid of patches: 1 x T x `width`, class token first."""
        table_TxD = self.position_table if self.learned_positions else sincos_positions(self.table_grid, width)
        table_TxD = resize_positions(table_TxD, self.table_grid, grid)
        return table_TxD[None] if self.learned_positions else jnp.asarray(table_TxD, self.dtype)[None]

    def encode_tokens(self, images_BxHxWxC, *, mask_BxN=None, mask_token_D=None, visible_BxV=None, keep=None):
        """Images to the tokens after the last layer, before the norm.

        Args:
            images_BxHxWxC: normalised; H and W are multiples of the patch.
            mask_BxN: 1 where a patch is removed; None: nothing is.
            mask_token_D: stands for removed patches; None: their pixels are zero.
            visible_BxV: indices of the patches that the encoder sees; None: all of them.
            keep: stochastic depth's factors (`stacks.apply_stack`).

        Returns:
            z_BxTxD, class token first.

        Raises:
            UserError: images of integers, or no array.
        """
        if not hasattr(images_BxHxWxC, "dtype"):
            raise UserError(f"images are a {type(images_BxHxWxC).__name__}, no array of NumPy or JAX.")
        if not jnp.issubdtype(jnp.result_type(images_BxHxWxC), jnp.floating):
            raise UserError(f"images of {images_BxHxWxC.dtype}: the network takes normalised floats, not pixels.")
        grid = grid_of(images_BxHxWxC.shape[1:3], self.patch_size)
        patches_BxNxF = patchify(images_BxHxWxC.astype(self.dtype), self.patch_size)
        if mask_BxN is not None and mask_token_D is None:
            patches_BxNxF = jnp.where(mask_BxN[..., None] > 0, 0, patches_BxNxF)
        if self.embedding_norms:
            patches_BxNxF = self.patch_norm(patches_BxNxF)
        z_BxNxD = affine(patches_BxNxF, *self.embedding)
        if self.embedding_norms:
            z_BxNxD = self.embedding_norm(z_BxNxD)
        if mask_BxN is not None and mask_token_D is not None:
            z_BxNxD = jnp.where(mask_BxN[..., None] > 0, broadcast_rows(mask_token_D, z_BxNxD), z_BxNxD)
        table_1xTxD = self.resized_positions(self.width, grid)
        z_BxNxD = z_BxNxD + broadcast_rows(table_1xTxD[:, 1:], z_BxNxD)
        if visible_BxV is not None:
            z_BxNxD = jnp.take_along_axis(z_BxNxD, visible_BxV[..., None], 1)
        class_Bx1xD = broadcast_rows(self.class_token, z_BxNxD[:, :1])
        class_Bx1xD = class_Bx1xD + broadcast_rows(table_1xTxD[:, :1], class_Bx1xD)
        z_BxTxD = constrain(jnp.concatenate([class_Bx1xD, z_BxNxD], 1), "images", None, None)
        layer = self.encoder_layer(grid if visible_BxV is None else None)
        return self.run("encoder", layer, self.encoder, z_BxTxD, keep)

    def run(self, stack, layer, params, z_BxTxD, keep=None):
        """Tokens through a stack; its layers' intermediate values are sown under the stack's name."""
        traced = self.is_mutable_collection("intermediates") and not self.is_initializing()
        z_BxTxD, seen = apply_stack(
            layer, params, z_BxTxD, scan=self.scan_layers, remat=self.remat, keep=keep, traced=traced
        )
        self.sow("intermediates", stack, seen)
        return z_BxTxD


class WhiteBox(LayerSettings):
    """Mixed into a frame: white-box layers, with every layer setting as an attribute of the network."""

    __repr__ = nn.Module.__repr__  # that of the settings would name them alone

    @property
    def branches(self):
        """Compression, and sparsification where it has a residual."""
        return 1 + self.sparsification_residual

    def encoder_layer(self, grid=None):
        return EncoderLayer(settings_of(self), self.num_heads, grid, parent=None)


@dataclasses.dataclass(unsafe_hash=True, kw_only=True)
class Transformer:
    """Mixed into a frame: the layers of a ViT."""

    attention_kernel: str = "auto"

    branches = 2  # attention and the MLP

    def encoder_layer(self, grid=None):
        return ViTLayer(self.num_heads, self.attention_kernel, parent=None)
