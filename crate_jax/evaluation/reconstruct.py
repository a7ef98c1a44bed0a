"""How well a network completes masked images: errors in its own units, PSNR and SSIM in pixels.

The network is trained on removed patches only; what it predicts for visible ones is shown but not pasted: a
reconstruction is the prediction where a patch was removed and the image elsewhere. A network trained with norm_pix_loss
predicts standardised patches; to show them, each patch's own mean and deviation are put back, which the network did not
predict. So such a PSNR flatters; `masked_mse` is in the units of the loss. Pictures larger than the network's images
(`data.show_split`) are completed tile by tile.
"""

import functools
import logging
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.data.own_pictures import fitted, picture_data
from crate_jax.data.picture import decoded
from crate_jax.errors import UserError, check_whole
from crate_jax.evaluation.feature_store import batch_size_of, evenly_spaced, split_images
from crate_jax.evaluation.features import exact_products
from crate_jax.evaluation.results import Result
from crate_jax.figures import curves, masked_image, picture_grid
from crate_jax.models.batches import over_images
from crate_jax.models.masked_autoencoder import MaskedAutoencoder
from crate_jax.operators.losses import patch_mse, standardised_patches
from crate_jax.operators.masking import KINDS, example_masks
from crate_jax.operators.patches import grid_of, image_shape, patchify, unpatchify
from crate_jax.training.objective import denormalise, normalise

logger = logging.getLogger(__name__)

SHOWN = 8  # images in the figure, evenly spaced over those measured
RATIOS = (0.25, 0.5, 0.75, 0.9)
LIMIT = 1024  # images of a split, evenly spaced
SWEPT = 128  # images, evenly spaced, that every kind and ratio is measured on
TILES = 4  # along a side of a picture that is completed tile by tile
TITLES = ("original", "masked", "reconstruction", "prediction alone")
NOTE = "Prediction alone: at visible patches it means nothing, since the loss is over removed patches only."


def reconstruct(subject, *, pictures=None, limit=LIMIT):
    """Completes images and measures: a `Result`, whose numbers are what `reconstruction.json` holds.

    Args:
        pictures: of `--images=`: they take the place of the held-out split.
        limit: images of the split at most, evenly spaced over it.

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


def completed(subject, images_BxHxWxC, index_B, kind, ratio, size=None):
    """uint8 images of a split, completed; see `complete_tiles`."""
    key = jax.random.fold_in(jax.random.key(subject.config.seed), 0x5EED)
    images_BxHxWxC = normalise(images_BxHxWxC, *subject.statistics)
    return complete_tiles(subject, images_BxHxWxC, index_B, key=key, kind=kind, ratio=ratio, size=size)


def size_for(subject, count):
    """Images a batch, the same for all that is measured and drawn: a mask ratio is compiled once."""
    return min(batch_size_of(subject.model.image_size), SWEPT, count)


def measured(subject, images_NxHxWxC, index_N, kind, ratio, what=None):
    """Means over images of what `measure` (or `what`) says of them `completed`; the arguments are the latter's."""

    def numbers_of(images_BxHxWxC, index_B):
        return (what or measure)(completed(subject, images_BxHxWxC, index_B, kind, ratio))

    size = size_for(subject, len(images_NxHxWxC))
    found = over_images(numbers_of, images_NxHxWxC, index_N, axis=0, size=size)
    return {name: float(np.mean(values)) for name, values in found.items()}


def rows_of(completed, count=None):
    """Rows of the figure: original, masked, reconstruction, prediction of the first images, or of all."""
    parts = (completed.original, completed.mask, completed.reconstruction, completed.prediction)
    return [[one, masked_image(one, mask), *more] for one, mask, *more in list(zip(*parts, strict=True))[:count]]


def _reconstruction_figure(subject, images, index_B, names, numbers, *, whole):
    settings, model = subject.config.data, subject.model
    size = size_for(subject, len(images))
    tiled = completed_pictures(subject, settings.show_split, settings.show_classes, size) if whole else {}
    shown = evenly_spaced(len(images), max(1, SHOWN - len(tiled)))
    drawn = completed(subject, images[shown], index_B[shown], "random", model.mask_ratio, size)
    rows = [*tiled.values(), *rows_of(drawn)]
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


def complete_tiles(subject, images_BxHxWxC, index_B, *, key, kind="random", ratio=None, size=None):
    """`Completed` of normalised images, each a whole number of tiles of the network's own size: tile by tile.

    Args:
        index_B: numbers of the images, which their masks follow from.
        key, kind, ratio: of the masks; None is the network's own ratio.
        size: tiles a batch, see `complete`.
    """
    model = subject.model if ratio is None else subject.model.clone(mask_ratio=ratio)
    own, norm_pix = image_shape(model.image_size), subject.config.norm_pix_loss
    tiles = grid_of(images_BxHxWxC.shape[1:3], own)
    tile_BxExF = patchify(np.asarray(images_BxHxWxC), own)
    batch, each, _ = tile_BxExF.shape
    part_P = jnp.asarray((np.asarray(index_B)[:, None] * each + np.arange(each)).reshape(-1))
    mask_PxN = example_masks(key, part_P, model.grid, model.mask_ratio, kind=kind)
    images_PxHxWxC = tile_BxExF.reshape(-1, *own, model.channels)
    found = complete(model, subject.params, images_PxHxWxC, mask_PxN, *subject.statistics, norm_pix, size)

    def joined(x):
        """A number a tile as one an image, tiles of pixels as images."""
        tiles_BxExF = x.reshape(batch, each, -1)
        return tiles_BxExF.mean((1, 2)) if x.ndim == 1 else unpatchify(tiles_BxExF, own, grid=tiles)

    return jax.tree.map(joined, found)


def completed_pictures(subject, split, names, size=None):
    """Pictures of a split, resized to four tiles a side and completed tile by tile: class to its row of `rows_of`.

    Of each class in `names` it is the first picture; what is not there is logged and left out.
    """
    if not names or not split:
        return {}
    model, config = subject.model, subject.config
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
        image = normalise(image[None], *subject.statistics)
        (done[name],) = rows_of(complete_tiles(subject, image, [number], key=key, size=size))
    return done


@flax.struct.dataclass
class Completed:
    """What became of masked images; pixels, B x H x W x C, are from 0 to 1."""

    masked_mse_B: Any  # in the units of the loss, a number an image
    visible_mse_B: Any
    original: Any
    reconstruction: Any  # the prediction with the visible patches of the original
    prediction: Any
    mask: Any  # B x H x W x 1, 1 where removed


def complete(model, params, images_BxHxWxC, mask_BxN, mean, std, norm_pix=False, size=None):
    """`Completed` of masked images, on the host. With mask_mode "drop" the model's mask_ratio is that of the masks.

    Args:
        images_BxHxWxC: normalised, with `mean` and `std`.
        mask_BxN: 1 where removed.
        norm_pix: the network predicts standardised patches.
        size: images a batch, where others shall share its compilation; None is all.
    """

    def of(images_SxHxWxC, mask_SxN):
        return _complete(model, params, images_SxHxWxC, mask_SxN, mean, std, norm_pix)

    images_BxHxWxC, mask_BxN = np.asarray(images_BxHxWxC), np.asarray(mask_BxN)
    return over_images(of, images_BxHxWxC, mask_BxN, axis=0, size=size or len(mask_BxN))


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6))
def _complete(model, params, images_BxHxWxC, mask_BxN, mean, std, norm_pix):
    size = model.patch_size
    with exact_products(model):
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
    from skimage.metrics import structural_similarity

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
