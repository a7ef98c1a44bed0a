"""How well a network completes masked images: errors in its own units, PSNR and SSIM in pixels.

The network is trained on removed patches only; what it predicts for visible ones is shown but not pasted: a
reconstruction is the prediction where a patch was removed and the image elsewhere. A network trained with norm_pix_loss
predicts standardised patches; to show them, each patch's own mean and deviation are put back, which the network did not
predict. So such a PSNR flatters; `masked_mse` is in the units of the loss.
Masks are those of `operators.masking.visible_patches`.
"""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from skimage.metrics import structural_similarity

from crate_jax.operators.losses import patch_mse, standardised_patches
from crate_jax.operators.patches import patchify, unpatchify
from crate_jax.training.objective import denormalise


@flax.struct.dataclass
class Completed:
    """What became of masked images; pixels from 0 to 1.

    Attributes:
        masked_mse_B, visible_mse_B: in the units of the loss, a number an image.
        original, reconstruction, prediction: B x H x W x C; the reconstruction has the visible patches of the original.
        mask: B x H x W x 1, 1 where removed.
    """

    masked_mse_B: Any
    visible_mse_B: Any
    original: Any
    reconstruction: Any
    prediction: Any
    mask: Any


def complete(model, params, images_BxHxWxC, mask_BxN, mean, std, norm_pix=False):
    """Masks images and lets the network complete them.

    Args:
        model: `CrateMae` or `VitMae`; with mask_mode "drop" its mask_ratio is that of the masks.
        params: its parameters.
        images_BxHxWxC: normalised.
        mask_BxN: 1 where removed.
        mean, std: that the images were normalised with.
        norm_pix: the network predicts standardised patches.

    Returns:
        `Completed`, on the host.
    """
    return jax.device_get(_complete(model, params, images_BxHxWxC, mask_BxN, mean, std, norm_pix))


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6))
def _complete(model, params, images_BxHxWxC, mask_BxN, mean, std, norm_pix):
    size = model.patch_size
    # on TPU a float32 product would else be made of bfloat16 passes
    with jax.default_matmul_precision("highest" if jnp.dtype(model.dtype) == jnp.float32 else "default"):
        prediction_BxNxF = model.apply({"params": params}, images_BxHxWxC, mask_BxN).prediction_BxNxF
    prediction_BxNxF = prediction_BxNxF.astype(jnp.float32)
    error_BxN = patch_mse(images_BxHxWxC, prediction_BxNxF, size, norm_pix)
    patches_BxNxF = patchify(images_BxHxWxC, size)
    if norm_pix:
        _, mean_BxNx1, deviation_BxNx1 = standardised_patches(patches_BxNxF)
        prediction_BxNxF = prediction_BxNxF * deviation_BxNx1 + mean_BxNx1
    pasted_BxNxF = jnp.where(mask_BxN[..., None] > 0, prediction_BxNxF, patches_BxNxF)
    grid = tuple(side // size for side in images_BxHxWxC.shape[1:3])

    def pixels(patches_BxNxF):
        return denormalise(unpatchify(patches_BxNxF, size, grid=grid), mean, std)

    return Completed(
        masked_mse_B=jnp.sum(error_BxN * mask_BxN, 1) / jnp.sum(mask_BxN, 1),
        visible_mse_B=jnp.sum(error_BxN * (1 - mask_BxN), 1) / jnp.sum(1 - mask_BxN, 1),
        original=denormalise(images_BxHxWxC, mean, std),
        reconstruction=pixels(pasted_BxNxF),
        prediction=pixels(prediction_BxNxF),
        mask=unpatchify(jnp.broadcast_to(mask_BxN[..., None], (*mask_BxN.shape, size * size)), size, grid=grid),
    )


def psnr(original_BxHxWxC, reconstruction_BxHxWxC):
    """Peak signal-to-noise ratio of each image, decibels: -10 log10 of the mean squared error; pixels from 0 to 1.

    100 at most, so that an image without an error (black, say) leaves a finite mean.
    """
    axes = tuple(range(1, original_BxHxWxC.ndim))
    error_B = np.mean(np.square(original_BxHxWxC.astype(np.float64) - reconstruction_BxHxWxC), axes)
    return -10 * np.log10(np.maximum(error_B, 1e-10))


def similarity_maps(original_BxHxWxC, reconstruction_BxHxWxC):
    """Structural similarity (Wang et al. 2004), by scikit-image, windows of 7 pixels or what fits.

    Returns:
        (ssim_B, map_BxHxW): the mean of each image without its border, and the similarity around each pixel.
    """
    window = min(7, *original_BxHxWxC.shape[1:3])
    settings = {"win_size": window - (window + 1) % 2, "channel_axis": -1, "data_range": 1.0, "full": True}
    pairs = zip(original_BxHxWxC, reconstruction_BxHxWxC, strict=True)
    found = [structural_similarity(one, other, **settings) for one, other in pairs]
    return np.array([one for one, _ in found]), np.stack([one.mean(-1) for _, one in found])


def measure(completed):
    """Numbers of each image, a dictionary of arrays.

    `psnr` and `ssim` compare the whole reconstruction, visible patches pasted, with the original: the fewer patches are
    removed, the better they look. `masked_psnr` and `masked_ssim` are of the removed pixels alone. `masked_mse` and
    `visible_mse` are in the units of the loss.
    """
    ssim_B, map_BxHxW = similarity_maps(completed.original, completed.reconstruction)
    removed_BxHxW = completed.mask[..., 0]
    error_BxHxW = np.mean(np.square(completed.original.astype(np.float64) - completed.reconstruction), -1)

    def over_removed(values_BxHxW):
        return (values_BxHxW * removed_BxHxW).sum((1, 2)) / removed_BxHxW.sum((1, 2))

    return {
        "masked_mse": completed.masked_mse_B,
        "visible_mse": completed.visible_mse_B,
        "psnr": psnr(completed.original, completed.reconstruction),
        "masked_psnr": -10 * np.log10(np.maximum(over_removed(error_BxHxW), 1e-10)),
        "ssim": ssim_B,
        "masked_ssim": over_removed(map_BxHxW),
    }
