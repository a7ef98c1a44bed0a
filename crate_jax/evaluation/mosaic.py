"""Pictures larger than the network's images, completed tile by tile: what a person recognises at a glance."""

import logging

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.data.augment import centre_crop
from crate_jax.data.picture import decoded
from crate_jax.data.sources import open_source
from crate_jax.errors import UserError
from crate_jax.evaluation.reconstruction import complete, make_masks
from crate_jax.training.objective import normalise

TILES = 4  # along a side

logger = logging.getLogger(__name__)


def cut(picture_HxWxC, size):
    """A square picture as tiles, row by row: (rows * columns) x size x size x C."""
    count, channels = picture_HxWxC.shape[0] // size, picture_HxWxC.shape[-1]
    tiles = picture_HxWxC.reshape(count, size, count, size, channels)
    return tiles.transpose(0, 2, 1, 3, 4).reshape(count * count, size, size, channels)


def join(tiles_BxHxWxC):
    """The inverse of `cut`."""
    count = round(len(tiles_BxHxWxC) ** 0.5)
    size, channels = tiles_BxHxWxC.shape[2:]
    tiles = np.asarray(tiles_BxHxWxC).reshape(count, count, size, size, channels)
    return tiles.transpose(0, 2, 1, 3, 4).reshape(count * size, count * size, channels)


def completed_pictures(subject, split, names):
    """Pictures of a split, completed tile by tile.

    Args:
        subject: a `Subject` with a decoder.
        split: of the subject's data set; its pictures are resized to four tiles a side.
        names: classes to show, in order; the first picture of each. What is not there is logged and left out.

    Returns:
        A list of (original, mask, reconstruction, prediction), each a square H x W x C from 0 to 1 (the mask 0 or 1).
    """
    model, config = subject.model, subject.config
    mean, std = subject.statistics
    try:
        source = open_source(config.data.name, split, config.data.data_dir)
    except UserError as error:  # the figure has held-out images as well, and these are a supplement to them
        logger.warning("no pictures of data.show_split=%s are completed: %s", split, error)
        return []
    missing = [name for name in names if name not in (source.class_names or ())]
    if missing:
        logger.warning("data.show_classes: split %s has no class %s", split, ", ".join(map(repr, missing)))
    names = [name for name in names if name not in missing]
    examples = source.read(np.arange(source.num_examples))
    wanted = {source.class_names[example.label]: example for example in reversed(examples) if example.label >= 0}
    key = jax.random.fold_in(jax.random.key(config.seed), 0x711E)
    side, done = TILES * model.image_size, []
    for number, name in enumerate(names):
        picture = decoded(wanted[name].image, model.channels)
        square = np.asarray(centre_crop(picture, side, side, config.data.interpolation)).reshape(side, side, -1)
        tiles = cut(square, model.image_size)
        index_B = jnp.arange(len(tiles)) + number * len(tiles)
        mask_BxN = make_masks("random", key, index_B, model.grid, model.mask_ratio)
        shown = complete(model, subject.params, normalise(tiles, mean, std), mask_BxN, mean, std, config.norm_pix_loss)
        parts = (shown.original, shown.mask, shown.reconstruction, shown.prediction)
        done.append(tuple(join(np.broadcast_to(part, shown.original.shape)) for part in parts))
    return done
