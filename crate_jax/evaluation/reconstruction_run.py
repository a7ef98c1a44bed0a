"""Reconstruction of a split, or of a person's own pictures: numbers by kind and ratio of the mask, and two figures."""

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.data.pipeline import evaluation_batches
from crate_jax.errors import UserError
from crate_jax.evaluation.feature_store import batch_size_of
from crate_jax.evaluation.figures import curves, image_grid, masked_image, save_figure
from crate_jax.evaluation.mosaic import completed_pictures
from crate_jax.evaluation.pictures import read_pictures
from crate_jax.evaluation.reconstruction import MASK_KINDS, complete, make_masks, measure
from crate_jax.models.masked_autoencoder import MaskedAutoencoder
from crate_jax.training.objective import normalise

SHOWN = 8  # images in the figure
RATIOS = (0.25, 0.5, 0.75, 0.9)
SWEPT = 128  # images that every kind and ratio is measured on


def reconstruct(subject, *, pictures=None, limit=1024):
    """Completes images, measures and draws.

    Args:
        subject: a `Subject` with a decoder.
        pictures: of `--images=`; None is the validation split.
        limit: images of the split at most.

    Returns:
        What `reconstruction.json` holds.

    Raises:
        UserError: no such split or file; a network that reconstructs nothing.
    """
    model = subject.model
    if not isinstance(model, MaskedAutoencoder):
        raise UserError(f"{subject.source} is a {type(model).__name__}, which has no decoder; reconstruct a pretrain.")
    images_BxHxWxC, index_B, names = _images(subject, pictures, limit)
    norm_pix, ratio = subject.config.norm_pix_loss, model.mask_ratio
    numbers, shown = _measured(subject, images_BxHxWxC, index_B, "random", ratio, keep=SHOWN)
    by_mask = [
        {"mask_kind": kind, "mask_ratio": one}
        | _measured(subject, images_BxHxWxC[:SWEPT], index_B[:SWEPT], kind, one)[0]
        for kind in MASK_KINDS
        for one in sorted({*RATIOS, ratio})
        if 0 < int(model.num_patches * (1 - one)) < model.num_patches
    ]
    if jax.process_index() == 0:
        names_of_whole = subject.config.data.show_classes
        if names_of_whole and subject.config.data.show_split and not pictures:
            whole = completed_pictures(subject, subject.config.data.show_split, names_of_whole)
        else:
            whole = []
        _draw(subject, whole, shown[: SHOWN - len(whole)], numbers, by_mask)
    results = numbers | {
        "mask_kind": "random",
        "mask_ratio": ratio,
        "images": len(images_BxHxWxC),
        "norm_pix_loss": norm_pix,
        "by_mask": by_mask,
        "by_mask_images": min(SWEPT, len(images_BxHxWxC)),
        "data": pictures or f"{subject.config.data.name}, {subject.config.data.validation_split}",
        "of": subject.source,
    }
    if norm_pix:
        results["note"] = (
            "pixels, PSNR and SSIM use each removed patch's own mean and deviation, which are not predicted"
        )
    return results | ({"names": names} if names else {})


def _images(subject, pictures, limit):
    """(images uint8, their numbers, names or None)."""
    model, settings = subject.model, subject.config.data
    if pictures:
        images_BxHxWxC, names = read_pictures(pictures, subject.config, model.image_size, model.channels)
        return images_BxHxWxC, np.arange(len(names)), names
    size = batch_size_of(model.image_size, 1)
    batches = evaluation_batches(
        subject.config, settings.validation_split, model.image_size, model.channels, size, limit=limit
    )
    kept = [(batch["image"][batch["valid"]], batch["index"][batch["valid"]]) for batch in batches]
    batches.close()
    return np.concatenate([image for image, _ in kept]), np.concatenate([index for _, index in kept]), None


def _measured(subject, images_NxHxWxC, index_N, kind, ratio, keep=0):
    """(means over the images, the first `keep` completed)."""
    model = subject.model.clone(mask_ratio=ratio)
    mean, std = subject.statistics
    key = jax.random.fold_in(jax.random.key(subject.config.seed), 0x5EED)
    size = min(batch_size_of(model.image_size, 1), len(images_NxHxWxC))
    numbers, shown = [], None
    for first in range(0, len(images_NxHxWxC), size):
        images, index_B = images_NxHxWxC[first : first + size], index_N[first : first + size]
        count = len(images)
        images = np.pad(images, [(0, size - count), *[(0, 0)] * 3])  # one shape, one compilation
        index_B = np.pad(index_B, (0, size - count))
        mask_BxN = make_masks(kind, key, jnp.asarray(index_B), model.grid, ratio)
        completed = complete(
            model, subject.params, normalise(images, mean, std), mask_BxN, mean, std, subject.config.norm_pix_loss
        )
        numbers.append({name: values[:count] for name, values in measure(completed).items()})
        shown = shown or completed
    means = {name: float(np.mean(np.concatenate([one[name] for one in numbers]))) for name in numbers[0]}
    parts = (shown.original, shown.mask, shown.reconstruction, shown.prediction)
    kept = [tuple(part[i] for part in parts) for i in range(min(keep, size))]
    return means, kept


def _draw(subject, whole, shown, numbers, by_mask):
    rows = [
        [original, masked_image(original, mask), reconstruction, prediction]
        for original, mask, reconstruction, prediction in whole + shown
    ]
    titles = ["original", "masked", "reconstruction", "all predicted"]
    caption = f"{subject.model.mask_ratio:.0%} removed; PSNR {numbers['psnr']:.1f} dB, SSIM {numbers['ssim']:.2f}"
    if whole:
        caption += (
            f"\nUpper rows: whole pictures in tiles of {subject.model.image_size} pixels, partly trained on."
            "\n"
            f"Lower rows: held-out images, which the numbers are of."
        )
    if subject.config.norm_pix_loss:
        caption += "; means and deviations of patches are the original's"
    figures = subject.out / "figures"
    save_figure(image_grid(rows, titles, caption), figures / "reconstruction.png")
    lines = {}
    for kind in MASK_KINDS:
        points = [one for one in by_mask if one["mask_kind"] == kind]
        values = {name: [one[name] for one in points] for name in ("psnr", "ssim", "masked_mse")}
        lines[kind] = ([one["mask_ratio"] for one in points], values)
    labels = {"psnr": "PSNR, dB", "ssim": "SSIM", "masked_mse": "MSE of removed patches"}
    save_figure(curves(lines, "fraction of patches removed", labels), figures / "reconstruction_by_mask.png")
