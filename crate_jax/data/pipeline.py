"""Batches on the devices: every process reads the rows that its devices hold, and no others.

Which rows those are follows from the sharding, so the global batch at a step does not depend on hosts or devices.
Pixels travel as bytes; mean and standard deviation are taken off on the device.
"""

import contextlib
import itertools
import os

import jax
import numpy as np

from crate_jax.data.agreement import check_hosts_agree
from crate_jax.data.host_batches import host_batches
from crate_jax.data.mixing import mixing_plan
from crate_jax.data.order import indices_of_step
from crate_jax.data.prefetch import Prefetched
from crate_jax.data.preparation import EMBEDDED, prepare_embedded
from crate_jax.data.rows import RowReader, recipe_of
from crate_jax.data.sources import open_source

MANY = 8  # workers; more of them than this are processes, since threads would wait for the interpreter's lock
LITTLE = 64 * 64  # pixels of a result: below, handing rows to threads costs more than making them


def train_batches(config, image_size, channels, sharding, start_step=0, host_batch=None, indices=None):
    """Endless training batches, the first of them number `start_step`, at the same cost for any.

    Args:
        config: with the leaves `seed`, `batch_size` and `data.*`.
        image_size: pixels.
        channels: 1 or 3.
        sharding: of the batch's first axis; None gives NumPy arrays with the whole batch.
        start_step: steps finished already.
        host_batch: a function of a dictionary of NumPy arrays, this process's rows in ascending order, that returns the
            like; applied before they go to the devices.
        indices: the examples to train on; None is all of the split.

    Returns:
        A Batches iterator of {"image": uint8 BxHxWxC, "label", "index", "epoch": int32 B}, and with `data.mixup` or
        `data.cutmix` "mix_weight" and "mix_box", which `mixing.mixed` wants.

    Raises:
        UserError: missing data, hosts that see different data, or (while iterating) too many corrupt examples.
    """
    source = open_source(config.data.name, config.data.train_split, config.data.data_dir)
    if sharding is not None:
        check_hosts_agree(source)
    reader = RowReader(source, recipe_of(config, image_size, channels))
    rows = rows_needed(sharding, config.batch_size)
    mixes = config.data.mixup or config.data.cutmix

    def finished(arrays):
        if mixes:
            drawn = (config.seed, arrays["epoch"], arrays["index"], image_size, config.data.mixup, config.data.cutmix)
            arrays = arrays | mixing_plan(*drawn)
        return host_batch(arrays) if host_batch else arrays

    among_N = np.arange(source.num_examples) if indices is None else np.asarray(indices, np.int64)

    def places():
        for step in itertools.count(start_step):
            place_B, epoch_B = indices_of_step(config.seed, step, config.batch_size, len(among_N))
            yield among_N[place_B[rows]], epoch_B[rows]

    made = host_batches(reader, places(), *workers_of(config, image_size), config.data.max_corrupt_fraction)
    return Batches(made, sharding, config.batch_size, rows, config.data.prefetch, finished)


def evaluation_batches(config, split, image_size, channels, batch_size, sharding=None, limit=None, indices=None):
    """The examples of a split in order, each once, unaugmented.

    Args:
        config: with the leaves `seed` and `data.*`.
        split: of the data set `data.name`.
        image_size: pixels.
        channels: 1 or 3.
        batch_size: over all hosts.
        sharding: of the batch's first axis; None gives NumPy arrays with the whole batch.
        limit: of examples; None is all of them.
        indices: which examples, in this order; None is all of them.

    Returns:
        A Batches iterator that ends, of what `train_batches` gives and "valid" (bool B). False marks the padding of the
        last batch (index -1), and examples that are corrupt; their pixels are 0, their label is -1.

    Raises:
        UserError: missing data, or (while iterating) too many corrupt examples.
    """
    source = open_source(config.data.name, split, config.data.data_dir)
    reader = RowReader(source, recipe_of(config, image_size, channels, training=False), replace=False)
    rows = rows_needed(sharding, batch_size)
    index_N = np.arange(source.num_examples) if indices is None else np.asarray(indices, np.int64)
    index_N = index_N[:limit]

    def places():
        for first in range(0, len(index_N), batch_size):
            index_B = np.full(batch_size, -1, np.int64)
            index_B[: len(index_N) - first] = index_N[first : first + batch_size]
            yield index_B[rows], np.zeros(len(rows), np.int64)

    made = host_batches(reader, places(), *workers_of(config, image_size), config.data.max_corrupt_fraction)
    return Batches(made, sharding, batch_size, rows, config.data.prefetch, None, keep_valid=True)


def num_train_examples(config):
    """How many examples an epoch has."""
    return open_source(config.data.name, config.data.train_split, config.data.data_dir).num_examples


def prepare(config):
    """Writes the embedded data set that a config names, if it is not there; other data sets are left alone."""
    if config.data.name in EMBEDDED:
        prepare_embedded(config.data.name, config.data.data_dir)


def describe(config):
    """What a person wants to know of the data: plain strings, numbers and lists.

    Args:
        config: with the leaves `data.*`.

    Returns:
        {"name", "augmentation", "train": {"split", "examples", "classes", "class_names", "location", "fingerprint"},
        "validation": the same}.

    Raises:
        UserError: missing data.
    """
    described = {"name": config.data.name, "augmentation": config.data.augmentation}
    for part in ("train", "validation"):
        source = open_source(config.data.name, config.data[f"{part}_split"], config.data.data_dir)
        described[part] = {
            "split": source.split,
            "examples": source.num_examples,
            "classes": source.num_classes,
            "class_names": list(source.class_names or ()),
            "location": source.location,
            "fingerprint": source.fingerprint,
        }
    return described


def rows_needed(sharding, batch_size):
    """The rows of the global batch that this process's devices hold.

    Args:
        sharding: over axis 0; None: all rows.
        batch_size: B.

    Returns:
        Ascending int64.
    """
    if sharding is None:
        return np.arange(batch_size)
    held_B = np.zeros(batch_size, bool)
    for index in sharding.addressable_devices_indices_map((batch_size,)).values():
        held_B[index[0]] = True
    return np.flatnonzero(held_B)


def workers_of(config, image_size):
    """Who makes rows.

    Args:
        config: with the leaves `data.*`.
        image_size: pixels.

    Returns:
        How many workers, 0 for pictures too small to be worth it; and whether they are processes.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = 0 if image_size * image_size <= LITTLE else min(cores, 64)
    if config.data.num_workers is not None:
        count = config.data.num_workers
    apart = count > MANY if config.data.worker_processes is None else config.data.worker_processes
    return count, apart and count > 0


class Batches(Prefetched):
    """Batches on the devices, some of them ready before they are asked for.

    Attributes:
        wait_seconds: time that the consumer has waited so far.
        corrupt_examples: distinct corrupt examples met by this process up to the batch handed out last.
    """

    def __init__(self, made, sharding, batch_size, rows, depth, host_batch, keep_valid=False):
        self.corrupt_examples = 0
        super().__init__(on_devices(made, sharding, batch_size, rows, host_batch, keep_valid), depth)

    def __next__(self):
        batch, self.corrupt_examples = super().__next__()
        return batch


def on_devices(made, sharding, batch_size, rows, host_batch, keep_valid):
    """Places each host batch.

    Args:
        made: iterator of HostBatch.
        sharding: None leaves them as they are.
        batch_size: B, over all hosts.
        rows: which rows of the global batch the host batch holds.
        host_batch: a function of the arrays, or None.
        keep_valid: whether "valid" is passed on.

    Yields:
        (dictionary of arrays, corrupt examples so far).
    """
    with contextlib.closing(made):
        for host in made:
            arrays = {key: value for key, value in host.arrays.items() if keep_valid or key != "valid"}
            if host_batch is not None:
                arrays = host_batch(arrays)
            if sharding is not None:
                arrays = {key: placed(value, sharding, batch_size, rows) for key, value in arrays.items()}
            yield arrays, host.corrupt_examples


def placed(local, sharding, batch_size, rows):
    """A global array from the rows of this process.

    Args:
        local: rows in ascending order, any further axes.
        sharding: over axis 0.
        batch_size: B.
        rows: the number in the global batch of each local row.

    Returns:
        jax.Array with batch_size rows.
    """

    def shard(index):
        first = np.searchsorted(rows, index[0].start or 0)
        last = np.searchsorted(rows, batch_size if index[0].stop is None else index[0].stop)
        return local[first:last]

    return jax.make_array_from_callback((batch_size, *local.shape[1:]), sharding, shard)
