"""The loss of masked completion: the squared error of the removed patches' pixels (He et al. 2022, MAE)."""

import jax.numpy as jnp

from crate_jax.operators.patches import patchify


def standardised_patches(patches_BxNxF):
    """Each patch's pixels minus their mean, over their standard deviation (unbiased, variance + 1e-6).

    Returns:
        (standardised_BxNxF, mean_BxNx1, deviation_BxNx1), float32; standardised * deviation + mean is the pixels.
    """
    patches_BxNxF = patches_BxNxF.astype(jnp.float32)
    mean_BxNx1 = jnp.mean(patches_BxNxF, -1, keepdims=True)
    deviation_BxNx1 = jnp.sqrt(jnp.var(patches_BxNxF, -1, keepdims=True, ddof=1) + 1e-6)
    return (patches_BxNxF - mean_BxNx1) / deviation_BxNx1, mean_BxNx1, deviation_BxNx1


def patch_mse(images_BxHxWxC, prediction_BxNxF, patch_size, norm_pix=False):
    """Mean squared error of every patch, removed or not.

    Args:
        images_BxHxWxC, prediction_BxNxF, patch_size, norm_pix: as of `masked_mse`.

    Returns:
        error_BxN, float32.

    Raises:
        ValueError: images of integers, or a prediction of another shape than theirs.
    """
    if not jnp.issubdtype(images_BxHxWxC.dtype, jnp.floating):
        raise ValueError(f"images of {images_BxHxWxC.dtype}: give them normalised, as the network saw them")
    target_BxNxF = patchify(images_BxHxWxC, patch_size).astype(jnp.float32)
    if prediction_BxNxF.shape != target_BxNxF.shape:
        raise ValueError(f"prediction of shape {prediction_BxNxF.shape}: these images have {target_BxNxF.shape}")
    if norm_pix:
        target_BxNxF = standardised_patches(target_BxNxF)[0]
    return jnp.mean(jnp.square(prediction_BxNxF.astype(jnp.float32) - target_BxNxF), -1)


def masked_mse(images, prediction, mask, patch_size, norm_pix=False):
    """Mean squared error over the removed patches only.

        sum over removed patches of mean((x_hat - x)^2) / number of removed patches

    Args:
        images: B x H x W x C, normalised as the network saw them.
        prediction: B x N x F, the network's pixels, F = p p C.
        mask: B x N, 1 where removed.
        patch_size: p.
        norm_pix: the target is each patch's standardised pixels.

    Returns:
        A scalar, float32.

    Raises:
        ValueError: images of integers, or shapes that do not fit.
    """
    error_BxN = patch_mse(images, prediction, patch_size, norm_pix)
    if mask.shape != error_BxN.shape:
        raise ValueError(f"mask of shape {mask.shape}: these images have {error_BxN.shape} patches")
    mask_BxN = mask.astype(jnp.float32)
    return jnp.sum(error_BxN * mask_BxN) / jnp.sum(mask_BxN)
