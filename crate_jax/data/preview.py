"""What `crate-jax data` shows: a grid of augmented examples, and how fast this machine makes batches."""

import contextlib
import time

import numpy as np

from crate_jax.data.pipeline import train_batches
from crate_jax.data.rows import RowReader
from crate_jax.data.sources import open_source

GAP = 2  # pixels between pictures


def augmentation_grid(config, image_size, channels, examples=8, epochs=7):
    """A row an example (there may be fewer): as evaluation sees it, then as training sees it in successive epochs.

    Arguments and errors are those of `train_batches`.

    Returns:
        grid_HxWxC, uint8.
    """
    source = open_source(config.data.name, config.data.train_split, config.data.data_dir)
    count = min(examples, source.num_examples)
    index_B = np.linspace(0, source.num_examples - 1, count).astype(np.int64)
    evaluated = RowReader(source, config, image_size, channels)
    trained = RowReader(source, config, image_size, channels, np.arange(source.num_examples))
    grid_BxExHxWxC = np.zeros((count, 1 + epochs, *trained.shape), np.uint8)
    grid_BxExHxWxC[:, 0] = evaluated.rows(index_B, np.zeros(count, int))[0]
    for epoch in range(epochs):
        grid_BxExHxWxC[:, 1 + epoch] = trained.rows(index_B, np.full(count, epoch))[0]
    return tiled(grid_BxExHxWxC)


def tiled(images_RxSxHxWxC):
    """R rows of S pictures (uint8) side by side on white: grid_HxWxC."""
    rows, columns, height, width, channels = images_RxSxHxWxC.shape
    grid = np.full((rows, height + GAP, columns, width + GAP, channels), 255, np.uint8)
    grid[:, :height, :, :width] = images_RxSxHxWxC.transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * (height + GAP), columns * (width + GAP), channels)[:-GAP, :-GAP]


def images_per_second(config, image_size, channels, seconds=5.0):
    """How many training images a second this process makes, with nothing else to do.

    Arguments and errors are those of `train_batches`; it is measured after the batches that were made ahead.
    """
    with contextlib.closing(train_batches(config, image_size, channels, None)) as batches:
        for _ in range(config.data.prefetch + 2):
            next(batches)
        begun, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - begun < seconds:
            next(batches)
            count += 1
        return count * config.batch_size / (time.perf_counter() - begun)
