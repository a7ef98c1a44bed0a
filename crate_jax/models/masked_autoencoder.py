"""A masked autoencoder: patches in, some removed; an encoder, a decoder, and every patch's pixels out.

What CRATE-MAE and ViT-MAE share: embedding, masking, class token, positions and the pixel head. A subclass says what a
layer is. Masked patches, by `mask_mode`:

    token   become the mask token before the encoder; every token passes through it (official CRATE-MAE)
    zero    keep their place with pixels of zero, the mean colour (paper)
    drop    are left out of the encoder; mask tokens take their places before the decoder, where the positions are
            added again (He et al. 2022, MAE)
"""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.models.blocks import DecoderLayer, EncoderLayer, LayerNorm, ViTLayer, compression_fields, xavier, zeros
from crate_jax.models.layer_stack import run_layers
from crate_jax.models.layout import constrain, split_along
from crate_jax.operators.affine import affine, spread
from crate_jax.operators.masking import num_visible, visible_first
from crate_jax.operators.patches import patchify
from crate_jax.operators.positions import resize_positions, sincos_positions


@flax.struct.dataclass
class Output:
    """What a masked autoencoder returns.

    Attributes:
        prediction_BxNxF: pixels of every patch, F = p p C, in the units of the input.
        latent_BxTxD: the encoder's tokens after its final norm, class token first; T = N + 1, or 1 + visible patches
            where removed ones are dropped.
    """

    prediction_BxNxF: jax.Array
    latent_BxTxD: jax.Array


class MaskedAutoencoder(nn.Module):
    """The frame; use `CrateMae` or `VitMae`.

    Attributes:
        image_size, patch_size, channels: of the images, pixels.
        width, depth, num_heads: of the encoder.
        decoder_depth, decoder_width, decoder_num_heads: of the decoder; None: as the encoder.
        mask_mode, mask_ratio: what is removed, and what of it the encoder sees.
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
    decoder_depth: int = 12
    decoder_width: int | None = None
    decoder_num_heads: int | None = None
    mask_mode: str = "token"
    mask_ratio: float = 0.75
    positions: str = "added"
    table_image_size: int | None = None
    dtype: Any = jnp.float32
    scan_layers: bool = False
    remat: str = "none"

    def encoder_layer(self, **kwargs):
        """A layer of the encoder."""
        raise TypeError(f"{type(self).__name__} does not say what a layer is")

    def decoder_layer(self, **kwargs):
        """A layer of the decoder."""
        raise TypeError(f"{type(self).__name__} does not say what a layer is")

    @property
    def grid(self):
        """(rows, columns) of patches at the image size the network was made for."""
        return (self.image_size // self.patch_size,) * 2

    @property
    def num_patches(self):
        """N at the image size that the network was made for."""
        return self.grid[0] * self.grid[1]

    @property
    def encoder_names(self):
        """Names of the encoder's layers, first to last."""
        return [f"encoder_{index:02d}" for index in range(self.depth)]

    @property
    def decoder_names(self):
        """Names of the decoder's layers, first to last."""
        return [f"decoder_{index:02d}" for index in range(self.decoder_depth)]

    def setup(self):
        pixels = self.patch_size**2 * self.channels
        inner = self.decoder_width or self.width

        def embedding_bias(key, shape, dtype=jnp.float32):  # as PyTorch leaves a convolution's
            bound = pixels**-0.5
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        token = nn.initializers.normal(0.02)
        self.embedding_kernel = self.param(
            "embedding_kernel", split_along(xavier, "pixels", "embed"), (pixels, self.width)
        )
        self.embedding_bias = self.param("embedding_bias", split_along(embedding_bias, None), (self.width,))
        self.class_token = self.param("class_token", split_along(token, None), (self.width,))
        if self.mask_mode != "zero":
            self.mask_token = self.param("mask_token", split_along(token, None), (inner,))
        for name in self.encoder_names:
            setattr(self, name, self.encoder_layer())
        self.encoder_norm = LayerNorm(1e-6)
        if inner != self.width or self.has_decoder_embedding:
            self.decoder_embedding_kernel = self.param(
                "decoder_embedding_kernel", split_along(xavier, "embed", None), (self.width, inner)
            )
            self.decoder_embedding_bias = self.param("decoder_embedding_bias", split_along(zeros, None), (inner,))
        for name in self.decoder_names:
            setattr(self, name, self.decoder_layer())
        self.decoder_norm = LayerNorm(1e-6)
        self.head_kernel = self.param("head_kernel", split_along(xavier, "embed", "pixels"), (inner, pixels))
        self.head_bias = self.param("head_bias", split_along(zeros, None), (pixels,))

    has_decoder_embedding = False

    def position_table(self, width, images_BxHxWxC):
        """1 x T x D: the sine-cosine table, resized if the images are not of the network's own size."""
        grid = tuple(size // self.patch_size for size in images_BxHxWxC.shape[1:3])
        made_for = ((self.table_image_size or self.image_size) // self.patch_size,) * 2
        table_TxD = resize_positions(sincos_positions(made_for, width), made_for, grid)
        return jnp.asarray(table_TxD, self.dtype)[None]

    def encode(self, images_BxHxWxC, mask_BxN=None):
        """Images to the encoder's tokens.

        Args:
            images_BxHxWxC: normalised; H and W are multiples of the patch.
            mask_BxN: 1 where removed; None: nothing is.

        Returns:
            latent_BxTxD after the final norm.
        """
        patches_BxNxF = patchify(images_BxHxWxC.astype(self.dtype), self.patch_size)
        if mask_BxN is not None and self.mask_mode == "zero":
            patches_BxNxF = jnp.where(mask_BxN[..., None] > 0, 0, patches_BxNxF)
        z_BxNxD = affine(patches_BxNxF, self.embedding_kernel, self.embedding_bias)
        table_1xTxD = self.position_table(self.width, images_BxHxWxC)
        if mask_BxN is not None and self.mask_mode == "token":
            z_BxNxD = jnp.where(mask_BxN[..., None] > 0, spread(self.mask_token, z_BxNxD), z_BxNxD)
        z_BxNxD = z_BxNxD + table_1xTxD[:, 1:]
        if mask_BxN is not None and self.mask_mode == "drop":
            place_BxV = visible_first(mask_BxN, num_visible(z_BxNxD.shape[1], self.mask_ratio))
            z_BxNxD = jnp.take_along_axis(z_BxNxD, place_BxV[..., None], 1)
        class_Bx1xD = spread(self.class_token, z_BxNxD[:, :1]) + table_1xTxD[:, :1]
        z_BxTxD = constrain(jnp.concatenate([class_Bx1xD, z_BxNxD], 1), "images", None, None)
        layer = self.encoder_layer(parent=None)
        z_BxTxD = run_layers(
            self, "encoder", self.encoder_names, layer, z_BxTxD, scan=self.scan_layers, remat=self.remat
        )
        return self.encoder_norm(z_BxTxD)

    def decode(self, latent_BxTxD, images_BxHxWxC, mask_BxN=None):
        """The encoder's tokens to pixels.

        Args:
            latent_BxTxD: as `encode` returns it.
            images_BxHxWxC: only its shape is used.
            mask_BxN: the mask that `encode` was given.

        Returns:
            prediction_BxNxF.
        """
        y_BxTxD = latent_BxTxD
        inner = self.decoder_width or self.width
        if inner != self.width or self.has_decoder_embedding:
            y_BxTxD = affine(y_BxTxD, self.decoder_embedding_kernel, self.decoder_embedding_bias)
        table_1xTxD = self.position_table(inner, images_BxHxWxC)
        if self.mask_mode == "drop":
            if mask_BxN is not None:
                y_BxTxD = self._fill_in(y_BxTxD, mask_BxN)
            y_BxTxD = y_BxTxD + table_1xTxD
        layer = self.decoder_layer(parent=None)
        y_BxTxD = run_layers(
            self, "decoder", self.decoder_names, layer, y_BxTxD, scan=self.scan_layers, remat=self.remat
        )
        if self.positions == "subtracted":
            y_BxTxD = y_BxTxD - table_1xTxD
        y_BxNxD = self.decoder_norm(y_BxTxD)[:, 1:]
        return affine(y_BxNxD, self.head_kernel, self.head_bias)

    def _fill_in(self, y_BxVxD, mask_BxN):
        """Visible tokens back to their places, mask tokens between them."""
        before_BxN = jnp.cumsum(1 - mask_BxN, 1).astype(jnp.int32)  # visible patches up to here, this one included
        source_BxN = jnp.clip(before_BxN, 1, y_BxVxD.shape[1] - 1)  # row 0 is the class token
        patches_BxNxD = jnp.take_along_axis(y_BxVxD, source_BxN[..., None], 1)
        patches_BxNxD = jnp.where(mask_BxN[..., None] > 0, spread(self.mask_token, patches_BxNxD), patches_BxNxD)
        return jnp.concatenate([y_BxVxD[:, :1], patches_BxNxD], 1)

    def __call__(self, images_BxHxWxC, mask_BxN=None):
        """Completes masked images.

        Args:
            images_BxHxWxC: normalised; H and W are multiples of the patch.
            mask_BxN: 1 where removed; None: nothing is. With mask_mode "drop" exactly int(N (1 - mask_ratio)) entries
                of each row must be 0.

        Returns:
            An `Output`.
        """
        latent_BxTxD = self.encode(images_BxHxWxC, mask_BxN)
        return Output(self.decode(latent_BxTxD, images_BxHxWxC, mask_BxN), latent_BxTxD)


class CrateMae(MaskedAutoencoder):
    """CRATE-MAE (Pai et al. 2024): every layer one step of the sparse rate reduction, or its reversal.

    Attributes, beside the frame's:
        eta, lambda_: step size and sparsity weight of ISTA.
        output_projection, skip, attention_scale, kappa, epsilon, attention_kernel, product_kernel: see
            `blocks.CompressionStep`.
        positions: "added" once, or "subtracted" again after the last decoder layer (book).
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

    def decoder_layer(self, **kwargs):
        fields = compression_fields(self, self.decoder_num_heads or self.num_heads, sign=-1)
        return DecoderLayer(fields, **kwargs)


class VitMae(MaskedAutoencoder):
    """ViT-MAE (He et al. 2022), the baseline: transformer layers, removed patches dropped."""

    mask_mode: str = "drop"
    has_decoder_embedding = True

    def encoder_layer(self, **kwargs):
        return ViTLayer(self.num_heads, **kwargs)

    def decoder_layer(self, **kwargs):
        return ViTLayer(self.decoder_num_heads or self.num_heads, **kwargs)
