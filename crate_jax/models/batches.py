"""Many images through a function that takes few: bounded memory, one compilation."""

import jax
import numpy as np

PIXELS_A_BATCH = 2**19  # over a batch's images: 10 of 224 pixels, 512 of 32
MOST = 32


def batch_size(images_BxHxWxC):
    """Images a batch: as many as fit, in batches as even as can be."""
    count = len(images_BxHxWxC)
    most = max(1, min(MOST, PIXELS_A_BATCH // int(np.prod(images_BxHxWxC.shape[1:3]))))
    return -(-count // -(-count // most))


def over_images(measure, images_BxHxWxC, *more, axis=-1, size=None):
    """Applies `measure` to batches of equal size and joins what it returns, as NumPy arrays.

    Args:
        measure: images (and further arrays with the same first axis) to a tree of arrays with one entry an image along
            `axis`. The last batch is filled up with the first images; what comes of them is cut off.
        images_BxHxWxC: all images.
        *more: arrays that are cut up in the same way.
        axis: of the images in the results.
        size: images a batch, where another set of images shall share its compilation; None: `batch_size`.
    """
    count = len(images_BxHxWxC)
    size = size or batch_size(images_BxHxWxC)
    parts = []
    for first in range(0, count, size):
        rows = np.arange(first, first + size) % count  # the last batch is filled with other images than its own
        found = jax.device_get(measure(images_BxHxWxC[rows], *(array[rows] for array in more)))
        kept = range(min(size, count - first))
        parts.append(jax.tree.map(lambda x, kept=kept: np.take(x, kept, axis), found))
    return jax.tree.map(lambda *x: np.concatenate(x, axis), *parts)
