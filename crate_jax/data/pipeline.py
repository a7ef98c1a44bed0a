"""Batches on the devices: every process reads the rows that its devices hold, and no others.

Which rows those are follows from the sharding, so the global batch at a step does not depend on hosts or devices.
Pixels travel as bytes; mean and standard deviation are taken off on the device.
"""

import functools
import math

import jax
import numpy as np

from crate_jax.cores import available_cores
from crate_jax.data.batches import Batches, Ledger
from crate_jax.data.loader import Chunks
from crate_jax.data.mixing import mixing_plan
from crate_jax.data.order import evaluation_order, training_order
from crate_jax.data.rows import RowReader
from crate_jax.data.sources import open_source
from crate_jax.data.staging import staged
from crate_jax.operators.patches import image_shape
from crate_jax.processes import same_on_all_hosts

THREADS = 8  # of one process: more would wait for the interpreter's lock
ENDLESS = 2**40  # steps
FEW = 64  # chunks for each worker process: with fewer, they take longer to start than to work
LITTLE = 64 * 64  # pixels of a result: up to this, threads only wait for each other


def train_batches(config, image_size, channels, sharding, start_step=0, indices=None):
    """Endless training batches, the first of them number `start_step`, at the same cost for any.

    Args:
        config: with the leaves `seed`, `batch_size` and `data.*`.
        image_size: pixels, or (height, width).
        channels: 1 or 3.
        sharding: of the batch's first axis; None gives NumPy arrays with the whole batch.
        start_step: steps finished already.
        indices: the examples to train on, ascending; None is all of the split.

    Returns:
        A Batches iterator of {"image": uint8 BxHxWxC, "label", "index", "epoch": int32 B}, and with `data.mixup` or
        `data.cutmix` "mix_weight" and "mix_box", which `mixing.mixed` wants.

    Raises:
        UserError: missing data, hosts that see different data, or (while iterating) too many corrupt examples.
    """
    source = open_source(config.data.name, config.data.train_split, config.data.data_dir)
    if sharding is not None:  # the fingerprint is a hash of the whole index: equal, so are all examples but for pixels
        same_on_all_hosts(
            {"fingerprint": source.fingerprint},
            f"data.name={source.name}, split {source.split!r} is not on this host ({source.location}) what it is on "
            "host 0; give every host the same data.data_dir content.",
        )
    if config.data.stage_dir:
        source = staged(source, config.data.stage_dir)
    among_N = np.arange(source.num_examples) if indices is None else np.asarray(indices, np.int64)
    reader = RowReader(source, config, image_size, channels, among_N)
    order = functools.partial(training_order, config.seed, config.batch_size, among_N)
    return _begun(config, reader, order, (start_step, ENDLESS), sharding, config.batch_size)


def evaluation_batches(config, split, image_size, channels, batch_size, sharding=None, indices=None):
    """The examples of a split in order, each once, unaugmented.

    Args:
        config, image_size, channels, sharding: as of `train_batches`.
        split: of the data set `data.name`.
        batch_size: over all hosts.
        indices: which examples, in this order; None is all of them.

    Returns:
        A Batches iterator that ends, of what `train_batches` gives and "valid" (bool B). False marks the padding of the
        last batch (index -1), and examples that are corrupt; their pixels are 0, their label is -1.

    Raises:
        UserError: missing data, or (while iterating) too many corrupt examples.
    """
    source = open_source(config.data.name, split, config.data.data_dir)
    reader = RowReader(source, config, image_size, channels)
    index_N = np.arange(source.num_examples) if indices is None else np.asarray(indices, np.int64)
    order = functools.partial(evaluation_order, batch_size, index_N)
    return _begun(config, reader, order, (0, -(-len(index_N) // batch_size)), sharding, batch_size)


def num_train_examples(config):
    """How many examples an epoch has."""
    return open_source(config.data.name, config.data.train_split, config.data.data_dir).num_examples


def workers_of(config, image_size):
    """Threads of each process, 0 for pictures too small to be worth it; and processes, 0 for this one.

    Little pictures are made here, in no thread; where an accelerator would wait for them and there are cores, in
    processes of one thread each.
    """
    cores, little = len(available_cores()), math.prod(image_shape(image_size)) <= LITTLE
    apart = little and cores >= 4 and jax.default_backend() != "cpu"
    workers = min(cores // 2, 16) if apart else 0 if little else min(cores, 64)
    if config.data.num_workers is not None:
        workers = config.data.num_workers
    processes = config.data.worker_processes
    if processes is None:
        processes = workers if apart else -(-workers // THREADS) if workers > THREADS else 0
    processes = min(processes, workers)
    return (-(-workers // processes) if processes else workers), processes


def _begun(config, reader, order, steps, sharding, batch_size):
    """Batches from their parts; those for training (with `reader.among_N`) without "valid", and mixed."""
    rows, training, data = _rows_held(sharding, batch_size), reader.among_N is not None, config.data
    chunks = Chunks(reader, order, rows, *steps)

    def finish(arrays):
        if training:
            del arrays["valid"]
        if training and (data.mixup or data.cutmix):
            drawn = (config.seed, arrays["epoch"], arrays["index"], reader.shape[:2], data.mixup, data.cutmix)
            arrays = arrays | mixing_plan(*drawn)
        if sharding is None:
            return arrays
        return {
            key: jax.make_array_from_process_local_data(sharding, value, (batch_size, *value.shape[1:]))
            for key, value in arrays.items()
        }

    ledger = Ledger(reader.source, data.max_corrupt_fraction, training)
    threads, processes = workers_of(config, reader.shape[:2])
    if data.worker_processes is None and len(chunks) < FEW * processes:
        threads, processes = min(threads * processes, THREADS), 0
    return Batches(chunks, (threads, processes), ledger, data.prefetch, finish)


def _rows_held(sharding, batch_size):
    """The rows of the global batch that this process's devices hold, ascending; without a sharding all of them."""
    if sharding is None:
        return np.arange(batch_size)
    held_B = np.zeros(batch_size, bool)
    for index in sharding.addressable_devices_indices_map((batch_size,)).values():
        held_B[index[0]] = True
    return np.flatnonzero(held_B)
