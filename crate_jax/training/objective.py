"""What a step minimises. An objective turns parameters and a batch into a loss; the rest of the loop does not care.

Masked completion (He et al. 2022; Pai et al. 2024): remove patches at random, predict their pixels, and count the
squared error of the removed ones. Masks are a pure function of (seed, step, example): the same for any number of
devices, and after any resume.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from crate_jax.operators.losses import masked_mse
from crate_jax.operators.masking import example_masks
from crate_jax.operators.patches import patchify, unpatchify


def normalise(images_BxHxWxC, mean, std):
    """uint8 pixels to the network's units: (x / 255 - mean) / std, float32.

    Args:
        images_BxHxWxC: 0 to 255.
        mean, std: a number a channel, or one for all.
    """
    mean_C, std_C = jnp.asarray(mean, jnp.float32) * 255, jnp.asarray(std, jnp.float32) * 255
    return (images_BxHxWxC.astype(jnp.float32) - mean_C) / std_C


def denormalise(images_BxHxWxC, mean, std):
    """The network's units to pixels from 0 to 1, clipped; the inverse of `normalise`."""
    pixels = images_BxHxWxC.astype(jnp.float32) * jnp.asarray(std, jnp.float32) + jnp.asarray(mean, jnp.float32)
    return jnp.clip(pixels, 0, 1)


def channel_statistics(config, channels):
    """(mean, std) of the config, a number a channel.

    One number serves all channels, and three serve one by their average.
    """

    def fit(values):
        return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels

    return fit(config.data.mean), fit(config.data.std)


@dataclasses.dataclass(frozen=True)
class MaskedCompletion:
    """The pre-training objective.

    Attributes:
        model: `CrateMae` or `VitMae`.
        seed: of the masks.
        norm_pix_loss: targets are each patch's standardised pixels.
        mean, std: of `normalise`.
    """

    model: Any
    seed: int
    norm_pix_loss: bool
    mean: tuple
    std: tuple

    def __call__(self, params, batch, step):
        """The loss of a batch.

        Args:
            params: of the model.
            batch: `image` (uint8, B x H x W x C) and `index` (B).
            step: number of the step, for the masks.

        Returns:
            (loss, dictionary of further scalars).
        """
        # bytes are cut into patches, not floats; network and loss cut the floats, which undoes what is done here
        patches_BxNxF = jax.lax.optimization_barrier(patchify(batch["image"], self.model.patch_size))
        images_BxHxWxC = normalise(unpatchify(patches_BxNxF, self.model.patch_size), self.mean, self.std)
        key = jax.random.fold_in(jax.random.key(self.seed), step)
        mask_BxN = example_masks(key, batch["index"], self.model.num_patches, self.model.mask_ratio)
        output = self.model.apply({"params": params}, images_BxHxWxC, mask_BxN)
        loss = masked_mse(images_BxHxWxC, output.prediction_BxNxF, mask_BxN, self.model.patch_size, self.norm_pix_loss)
        return loss, {}
