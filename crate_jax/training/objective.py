"""What a step minimises. An objective turns parameters and a batch into a loss; the rest of the loop does not care.

Masked completion (He et al. 2022; Pai et al. 2024): remove patches at random, predict their pixels, and count the
squared error of the removed ones. A multiple of the coding rate of the batch's features may be taken from it, so that
features do not collapse (MCR^2, SimDINO). Masks are a pure function of (seed, step, example): the same for any number
of devices, and after any resume.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.operators.coding_rate import features_coding_rate
from crate_jax.operators.losses import masked_mse
from crate_jax.operators.masking import example_masks
from crate_jax.operators.patches import patchify, unpatchify


def normalise(images_BxHxWxC, mean, std):
    """Pixels, 0 to 255, to the network's units, float32: (x / 255 - mean) / std, one number each or one per channel."""
    mean_C, std_C = jnp.asarray(mean, jnp.float32) * 255, jnp.asarray(std, jnp.float32) * 255
    return (images_BxHxWxC.astype(jnp.float32) - mean_C) / std_C


def denormalise(images_BxHxWxC, mean, std):
    """The network's units to pixels from 0 to 1, clipped; the inverse of `normalise`."""
    pixels = images_BxHxWxC.astype(jnp.float32) * jnp.asarray(std, jnp.float32) + jnp.asarray(mean, jnp.float32)
    return jnp.clip(pixels, 0, 1)


def channel_statistics(config, channels):
    """(mean, std) of the config, a number a channel: one serves all channels, and three serve one by their average."""

    def fit(values):
        return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels

    return fit(config.data.mean), fit(config.data.std)


@dataclasses.dataclass(frozen=True)
class MaskedCompletion:
    """The pre-training objective."""

    model: Any  # a masked autoencoder
    norm_pix_loss: bool  # targets are each patch's standardised pixels
    mean: tuple  # of `normalise`
    std: tuple
    mask_kind: str  # of `operators.masking.example_masks`
    mask_ratios: tuple  # each step draws one of these; () is the model's own ratio. Each is compiled once
    mask_per_step: bool  # all images of a step share one mask
    rate_weight: float  # gamma of error - gamma R_eps(features), R of a micro-batch; 0 is the error alone
    rate_epsilon: float  # eps of that coding rate

    def __call__(self, params, batch, key):
        """The loss of a batch.

        Args:
            params: of the model.
            batch: `image` (uint8, B x H x W x C) and `index` (B).
            key: a PRNG key, of the seed and the step, for the masks.

        Returns:
            (loss, dictionary of further scalars).
        """
        # bytes are cut into patches, not floats; network and loss cut the floats, which undoes what is done here
        patches_BxNxF = jax.lax.optimization_barrier(patchify(batch["image"], self.model.patch_size))
        pixels_BxHxWxC = unpatchify(patches_BxNxF, self.model.patch_size, grid=self.model.grid)
        images_BxHxWxC = normalise(pixels_BxHxWxC, self.mean, self.std)
        if not self.mask_ratios:
            return self.loss(params, images_BxHxWxC, batch["index"], key, ratio=self.model.mask_ratio)
        level_key = jax.random.fold_in(key, np.uint32(2**32 - 1))  # no example has this index
        level = jax.random.randint(level_key, (), 0, len(self.mask_ratios), jnp.int32)
        losses = [functools.partial(self.loss, ratio=ratio) for ratio in self.mask_ratios]
        loss, scalars = jax.lax.switch(level, losses, params, images_BxHxWxC, batch["index"], key)
        return loss, scalars | {"mask_ratio": jnp.asarray(self.mask_ratios, jnp.float32)[level]}

    def loss(self, params, images_BxHxWxC, index_B, key, *, ratio):
        """(loss, scalars) at one mask ratio."""
        model = self.model if ratio == self.model.mask_ratio else self.model.clone(mask_ratio=ratio)
        seen_B = jnp.zeros_like(index_B) if self.mask_per_step else index_B
        mask_BxN = example_masks(key, seen_B, model.grid, ratio, kind=self.mask_kind)
        output = model.apply({"params": params}, images_BxHxWxC, mask_BxN)
        error = masked_mse(images_BxHxWxC, output.prediction_BxNxF, mask_BxN, model.patch_size, self.norm_pix_loss)
        if not self.rate_weight:
            return error, {}
        rate = features_coding_rate(output.latent_BxTxD, epsilon=self.rate_epsilon)
        return error - self.rate_weight * rate, {"masked_error": error, "coding_rate": rate}
