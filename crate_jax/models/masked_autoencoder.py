"""A masked autoencoder: patches in, some removed; an encoder, a decoder, and every patch's pixels out.

CRATE-MAE (Pai et al. 2024) and ViT-MAE (He et al. 2022) share everything but the layers. With mask_mode "drop", mask
tokens take the removed patches' places before the decoder, where the positions are added again.
"""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.errors import UserError
from crate_jax.models.encoder import Encoder, Transformer, WhiteBox
from crate_jax.models.layers.crate import DecoderLayer
from crate_jax.models.layers.initializers import linear
from crate_jax.models.layers.norm import LayerNorm
from crate_jax.models.layers.settings import settings_of
from crate_jax.models.layers.vit import ViTLayer
from crate_jax.models.layout import partitioned
from crate_jax.models.stacks import layer_names, stack_parameters
from crate_jax.operators.affine import affine, broadcast_rows
from crate_jax.operators.masking import num_visible, visible_first
from crate_jax.operators.patches import grid_of


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


class MaskedAutoencoder(Encoder):
    """The frame; use `CrateMae` or `VitMae`, which define `decoder_layer(grid)`."""

    decoder_depth: int = 12
    decoder_width: int | None = None  # None: as the encoder
    decoder_num_heads: int | None = None  # None: as the encoder
    mask_mode: str = "token"  # what the encoder sees of a removed patch (`models.encoder`)
    mask_ratio: float = 0.75
    positions: str = "added"  # once, or "subtracted" again after the last decoder layer (book)

    has_decoder_embedding = False

    def embedding_bias_init(self, key, shape, dtype=jnp.float32):
        """As PyTorch leaves a convolution's."""
        bound = (self.patch_size**2 * self.channels) ** -0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    @property
    def decoder_names(self):
        """Names of the decoder's layers, first to last."""
        return layer_names("decoder", self.decoder_depth)

    def setup(self):
        pixels = self.patch_size**2 * self.channels
        inner = self.decoder_width or self.width
        self.encoder_parameters()
        if self.mask_mode != "zero":
            token = nn.initializers.normal(0.02)
            self.mask_token = self.param("mask_token", partitioned(token, None), (inner,))
        if self.has_decoder_embedding:
            self.decoder_embedding = linear(self, "decoder_embedding", (self.width, inner), ("embed", None))
        self.decoder = stack_parameters(self, "decoder", self.decoder_layer(), self.decoder_depth, inner)
        self.decoder_norm = LayerNorm(1e-6)
        self.head = linear(self, "head", (inner, pixels), ("embed", "pixels"))

    def encode(self, images_BxHxWxC, mask_BxN=None):
        """Images to the encoder's tokens, latent_BxTxD, after the final norm; arguments as of a call."""
        masked = {}
        if mask_BxN is not None and self.mask_mode == "drop":
            masked = {"visible_BxV": visible_first(mask_BxN, num_visible(mask_BxN.shape[1], self.mask_ratio))}
        elif mask_BxN is not None:
            masked = {"mask_BxN": mask_BxN, "mask_token_D": self.mask_token if self.mask_mode == "token" else None}
        return self.encoder_norm(self.encode_tokens(images_BxHxWxC, **masked))

    def decode(self, latent_BxTxD, images_BxHxWxC, mask_BxN=None):
        """The encoder's tokens to pixels, prediction_BxNxF.

        Args:
            latent_BxTxD: as `encode` returns it.
            images_BxHxWxC: only its shape is used.
            mask_BxN: the mask that `encode` was given.
        """
        y_BxTxD = latent_BxTxD
        if self.has_decoder_embedding:
            y_BxTxD = affine(y_BxTxD, *self.decoder_embedding)
        grid = grid_of(images_BxHxWxC.shape[1:3], self.patch_size)
        table_1xTxD = self.resized_positions(y_BxTxD.shape[-1], grid)
        if self.mask_mode == "drop":
            if mask_BxN is not None:
                y_BxTxD = self._insert_mask_tokens(y_BxTxD, mask_BxN)
            y_BxTxD = y_BxTxD + table_1xTxD
        y_BxTxD = self.run("decoder", self.decoder_layer(grid), self.decoder, y_BxTxD)
        if self.positions == "subtracted":
            y_BxTxD = y_BxTxD - table_1xTxD
        y_BxNxD = self.decoder_norm(y_BxTxD)[:, 1:]
        return affine(y_BxNxD, *self.head)

    def _insert_mask_tokens(self, y_BxVxD, mask_BxN):
        """Visible tokens back to their places, mask tokens between them."""
        before_BxN = jnp.cumsum(1 - mask_BxN, 1).astype(jnp.int32)  # visible patches up to here, this one included
        source_BxN = jnp.clip(before_BxN, 1, y_BxVxD.shape[1] - 1)  # row 0 is the class token
        patches_BxNxD = jnp.take_along_axis(y_BxVxD, source_BxN[..., None], 1)
        patches_BxNxD = jnp.where(
            mask_BxN[..., None] > 0, broadcast_rows(self.mask_token, patches_BxNxD), patches_BxNxD
        )
        return jnp.concatenate([y_BxVxD[:, :1], patches_BxNxD], 1)

    def __call__(self, images_BxHxWxC, mask_BxN=None):
        """Completes masked images.

        Args:
            images_BxHxWxC: normalised; H and W are multiples of the patch.
            mask_BxN: 1 where removed; None: nothing is. With mask_mode "drop" exactly int(N (1 - mask_ratio)) entries
                of each row must be 0.

        Returns:
            An `Output`.

        Raises:
            UserError: a mask of another shape or, outside `jit`, with another number of zeros.
        """
        if mask_BxN is not None:
            self._check_mask(images_BxHxWxC, mask_BxN)
        latent_BxTxD = self.encode(images_BxHxWxC, mask_BxN)
        return Output(self.decode(latent_BxTxD, images_BxHxWxC, mask_BxN), latent_BxTxD)

    def _check_mask(self, images_BxHxWxC, mask_BxN):
        rows, columns = grid_of(images_BxHxWxC.shape[1:3], self.patch_size)
        shape, fits = jnp.shape(mask_BxN), (len(images_BxHxWxC), rows * columns)
        if len(shape) != 2 or shape[1] != fits[1] or shape[0] not in (1, fits[0]):
            raise UserError(f"mask of shape {shape}: these images have {fits[0]} x {fits[1]} patches.")
        known = not isinstance(mask_BxN, jax.core.Tracer) and getattr(mask_BxN, "is_fully_addressable", True)
        if self.mask_mode == "drop" and known:
            visible = num_visible(fits[1], self.mask_ratio)
            if np.any(np.sum(np.asarray(mask_BxN) == 0, 1) != visible):
                raise UserError(
                    f"mask: 1 is removed, 0 visible, and this network (mask_mode='drop', mask_ratio={self.mask_ratio}) "
                    f"takes exactly {visible} zeros per row, as random_mask(key, B, {fits[1]}, {self.mask_ratio}) has."
                )


class CrateMae(WhiteBox, MaskedAutoencoder):
    """CRATE-MAE and its family: every layer one step of the sparse rate reduction, or its reversal."""

    def decoder_layer(self, grid=None):
        return DecoderLayer(settings_of(self), self.decoder_num_heads or self.num_heads, grid, parent=None)


class VitMae(Transformer, MaskedAutoencoder):
    """ViT-MAE (He et al. 2022), the baseline: transformer layers, removed patches dropped."""

    mask_mode: str = "drop"
    has_decoder_embedding = True

    def decoder_layer(self, grid=None):
        return ViTLayer(self.decoder_num_heads or self.num_heads, self.attention_kernel, parent=None)
