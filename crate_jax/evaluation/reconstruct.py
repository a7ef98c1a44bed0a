"""Reconstruction of a split, or of a person's own pictures: numbers by kind and ratio of the mask, and two figures.

Pictures larger than the network's images (`data.show_split`) are completed tile by tile.
"""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.data.own_pictures import fitted, picture_data
from crate_jax.data.picture import decoded
from crate_jax.errors import UserError, check_whole
from crate_jax.evaluation.feature_store import batch_size_of, evenly_spaced, split_images
from crate_jax.evaluation.masked_completion import complete, measure
from crate_jax.evaluation.results import Result
from crate_jax.figures import curves, masked_image, picture_grid
from crate_jax.models.batches import over_images
from crate_jax.models.masked_autoencoder import MaskedAutoencoder
from crate_jax.operators.masking import KINDS, example_masks
from crate_jax.operators.patches import image_shape
from crate_jax.training.objective import normalise

logger = logging.getLogger(__name__)

SHOWN = 8  # images in the figure, evenly spaced over those measured
RATIOS = (0.25, 0.5, 0.75, 0.9)
SWEPT = 128  # images, evenly spaced, that every kind and ratio is measured on
TILES = 4  # along a side of a picture that is completed tile by tile
TITLES = ("original", "masked", "reconstruction", "prediction alone")
NOTE = "Prediction alone: at visible patches it means nothing, since the loss is over removed patches only."


def reconstruct(subject, *, pictures=None, limit=1024):
    """Completes images and measures.

    Args:
        subject: a `Subject` with a decoder.
        pictures: of `--images=`: they take the place of the held-out split.
        limit: images of the split at most, evenly spaced over it.

    Returns:
        A `Result`; its numbers are what `reconstruction.json` holds.

    Raises:
        UserError: no such split or file; a network that reconstructs nothing.
    """
    check_whole("--limit", limit, 1)
    model, settings = subject.model, subject.config.data
    if not isinstance(model, MaskedAutoencoder):
        raise UserError(f"{subject.source} is a {type(model).__name__}, which has no decoder; reconstruct a pretrain.")
    if pictures is not None:
        images, names = subject.read_pictures(pictures)
        index_B, stamp = np.arange(len(names)), subject.stamp(data=picture_data(images))
    else:
        images, index_B, names = of_split(subject, settings.validation_split, limit)
        stamp = subject.stamp(settings.validation_split, len(images))
    ratio, swept = model.mask_ratio, evenly_spaced(len(images), SWEPT)
    numbers = measured(subject, images, index_B, "random", ratio)
    by_mask = [
        {"mask_kind": kind, "mask_ratio": one} | measured(subject, images[swept], index_B[swept], kind, one)
        for kind in KINDS
        for one in sorted({*RATIOS, ratio})
        if 0 < int(model.num_patches * (1 - one)) < model.num_patches
    ]
    results = numbers | {"mask_kind": "random", "mask_ratio": ratio, "images": len(images)}
    results |= {"norm_pix_loss": subject.config.norm_pix_loss, "by_mask": by_mask, "by_mask_images": len(swept)} | stamp
    if subject.config.norm_pix_loss:
        results["note"] = (
            "pixels, PSNR and SSIM use each removed patch's own mean and deviation, which are not predicted"
        )
    if pictures is not None:
        results["names"] = names
    draw = functools.partial(_reconstruction_figure, subject, images, index_B, names, numbers, whole=pictures is None)
    figures = {"reconstruction": draw, "reconstruction_by_mask": lambda: by_mask_figure(by_mask)}
    return Result("reconstruction", results, {"by_mask": by_mask}, figures)


def of_split(subject, split, limit):
    """(images uint8, their numbers, class names) from all over a split."""
    indices, called = evenly_spaced(subject.open_split(split).num_examples, limit), subject.class_names(split)
    images_BxHxWxC, index_B, label_B = split_images(subject, split, indices)
    return images_BxHxWxC, index_B, [called(label) if label >= 0 else "" for label in label_B]


def completed(subject, images_BxHxWxC, index_B, kind, ratio):
    """Images of a split, completed at once: `Completed`.

    Args:
        subject: a `Subject` with a decoder.
        images_BxHxWxC: uint8.
        index_B: numbers of the examples, which their masks follow from.
        kind, ratio: of the masks.
    """
    model, (mean, std) = subject.model.clone(mask_ratio=ratio), subject.statistics
    key = jax.random.fold_in(jax.random.key(subject.config.seed), 0x5EED)
    mask_BxN = example_masks(key, jnp.asarray(index_B), model.grid, ratio, kind=kind)
    images_BxHxWxC = normalise(images_BxHxWxC, mean, std)
    return complete(model, subject.params, images_BxHxWxC, mask_BxN, mean, std, subject.config.norm_pix_loss)


def measured(subject, images_NxHxWxC, index_N, kind, ratio):
    """Means over images of what `measure` says of them `completed`; the arguments are the latter's."""

    def numbers_of(images_BxHxWxC, index_B):
        return measure(completed(subject, images_BxHxWxC, index_B, kind, ratio))

    size = min(batch_size_of(subject.model.image_size), len(images_NxHxWxC))
    found = over_images(numbers_of, images_NxHxWxC, index_N, axis=0, size=size)
    return {name: float(np.mean(values)) for name, values in found.items()}


def rows_of(completed, count=None):
    """Rows of the figure: original, masked, reconstruction, prediction of the first images, or of all."""
    parts = (completed.original, completed.mask, completed.reconstruction, completed.prediction)
    return [[one, masked_image(one, mask), *more] for one, mask, *more in list(zip(*parts, strict=True))[:count]]


def _reconstruction_figure(subject, images, index_B, names, numbers, *, whole):
    settings, model = subject.config.data, subject.model
    tiled = completed_pictures(subject, settings.show_split, settings.show_classes) if whole else {}
    shown = evenly_spaced(len(images), max(1, SHOWN - len(tiled)))
    rows = [*tiled.values(), *rows_of(completed(subject, images[shown], index_B[shown], "random", model.mask_ratio))]
    lines = [
        f"{model.mask_ratio:.0%} removed; PSNR {numbers['psnr']:.1f} dB, SSIM {numbers['ssim']:.2f}; "
        f"removed pixels alone {numbers['masked_psnr']:.1f} dB, {numbers['masked_ssim']:.2f}"
    ]
    if subject.config.norm_pix_loss:
        lines.append("Means and deviations of patches are the original's.")
    if tiled:
        lines.append(f"Upper rows: whole pictures in tiles of {model.image_size} pixels, partly trained on.")
        lines.append("Lower rows: held-out images, which the numbers are of.")
    caption = "\n".join([*lines, NOTE])
    return picture_grid(rows, columns=TITLES, names=[*tiled, *(names[i] for i in shown)], side=1.4, caption=caption)


def by_mask_figure(by_mask):
    """PSNR and SSIM of the removed pixels and the error of the loss, by ratio and kind of the mask."""
    labels = {"masked_psnr": "PSNR of removed pixels, dB", "masked_ssim": "SSIM of removed pixels"}
    labels |= {"masked_mse": "MSE of removed patches"}
    lines = {}
    for kind in KINDS:
        points = [one for one in by_mask if one["mask_kind"] == kind]
        lines[kind] = ([one["mask_ratio"] for one in points], {name: [one[name] for one in points] for name in labels})
    return curves(lines, "fraction of patches removed", labels)


def cut(images_BxHxWxC, tiles):
    """Images as rows x columns tiles each, row by row: (B * rows * columns) x H / rows x W / columns x C."""
    (batch, height, width, channels), (rows, columns) = images_BxHxWxC.shape, tiles
    parts = images_BxHxWxC.reshape(batch, rows, height // rows, columns, width // columns, channels)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height // rows, width // columns, channels)


def join(parts_BxHxWxC, tiles):
    """The inverse of `cut`."""
    (_, height, width, channels), (rows, columns) = parts_BxHxWxC.shape, tiles
    parts = np.asarray(parts_BxHxWxC).reshape(-1, rows, columns, height, width, channels)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows * height, columns * width, channels)


def complete_tiles(model, params, images_BxHxWxC, mean, std, norm_pix=False, *, kind="random", key, index_B=None):
    """Masks images, each a whole number of tiles of the network's own size, and completes them tile by tile.

    Args:
        model, params, images_BxHxWxC, mean, std, norm_pix: as of `complete`.
        kind, key: of the masks.
        index_B: numbers of the images, which their masks follow from; None counts from 0.

    Returns:
        `Completed`, of the images joined again.
    """
    own = image_shape(model.image_size)
    tiles = tuple(side // one for side, one in zip(images_BxHxWxC.shape[1:3], own, strict=True))
    batch, each = len(images_BxHxWxC), tiles[0] * tiles[1]
    index_B = np.arange(batch) if index_B is None else np.asarray(index_B)
    part_P = jnp.asarray((index_B[:, None] * each + np.arange(each)).reshape(-1))
    mask_PxN = example_masks(key, part_P, model.grid, model.mask_ratio, kind=kind)
    found = complete(model, params, cut(images_BxHxWxC, tiles), mask_PxN, mean, std, norm_pix)
    # a number a tile becomes one an image, tiles of pixels are joined
    return jax.tree.map(lambda x: x.reshape(batch, each).mean(1) if x.ndim == 1 else join(x, tiles), found)


def completed_pictures(subject, split, names):
    """Pictures of a split, completed tile by tile.

    Args:
        subject: a `Subject` with a decoder.
        split: of the subject's data set; its pictures are resized to four tiles a side.
        names: classes to show, in order; the first picture of each. What is not there is logged and left out.

    Returns:
        Name to the row of `rows_of`.
    """
    if not names or not split:
        return {}
    model, config = subject.model, subject.config
    mean, std = subject.statistics
    try:
        source = subject.open_split(split)
    except UserError as error:  # the figure has held-out images as well, and these are a supplement to them
        logger.warning("no pictures of data.show_split=%s are completed: %s", split, error)
        return {}
    missing = [name for name in names if name not in (source.class_names or ())]
    if missing:
        logger.warning("data.show_classes: split %s has no class %s", split, ", ".join(map(repr, missing)))
    names = [name for name in names if name not in missing]
    examples = source.read(np.arange(source.num_examples))
    wanted = {source.class_names[example.label]: example for example in reversed(examples) if example.label >= 0}
    key = jax.random.fold_in(jax.random.key(config.seed), 0x711E)
    shape, done = tuple(TILES * side for side in image_shape(model.image_size)), {}
    for number, name in enumerate(names):
        image = fitted(decoded(wanted[name].image, model.channels), shape, config.data.interpolation)
        image = normalise(image[None], mean, std)
        shown = complete_tiles(model, subject.params, image, mean, std, config.norm_pix_loss, key=key, index_B=[number])
        (done[name],) = rows_of(shown)
    return done
