"""The rows of one process, made ahead by threads or processes, and the ledger of what was corrupt.

Rows of the next batch are begun before the last of this one are done, so no worker is idle at the end of a batch; what
is counted and warned of is entered in the order of the batches, so it does not depend on who was quicker.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import logging

import numpy as np

from crate_jax.data.worker import WorkerProcesses
from crate_jax.errors import UserError

FEWEST_READ = 1000  # examples (or all, if there are fewer) before a fraction of them means anything
CHUNK = 8  # rows that one worker makes at a time


@dataclasses.dataclass
class HostBatch:
    """The rows of one process, and how many distinct corrupt examples it has met up to here."""

    arrays: dict
    corrupt_examples: int


def host_batches(reader, places, workers, apart, max_corrupt_fraction):
    """Makes rows, a batch ahead of what is asked for, and keeps count of what is corrupt.

    Args:
        reader: RowReader.
        places: iterator of (index_B, epoch_B); index -1 is padding.
        workers: threads; 0 makes rows in the calling thread.
        apart: each thread has a process that does its work.
        max_corrupt_fraction: of the examples read; more is an error.

    Yields:
        HostBatch.

    Raises:
        UserError: too many corrupt examples.
    """
    ledger = Ledger(reader.source, max_corrupt_fraction, reader.replace)
    with contextlib.ExitStack() as stack:
        if apart:
            reader = stack.enter_context(contextlib.closing(WorkerProcesses(reader, workers)))
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(workers)) if workers else None
        pending = collections.deque()
        try:
            for index_B, epoch_B in places:
                pending.append(begin(reader, index_B, epoch_B, pool))
                if len(pending) > (1 if workers else 0):  # the threads are never idle at the end of a batch
                    yield finish(*pending.popleft(), ledger)
            while pending:
                yield finish(*pending.popleft(), ledger)
            ledger.check(final=True)
        finally:
            for _, futures in pending:
                for future in futures:
                    future.cancel()


def begin(reader, index_B, epoch_B, pool):
    """Hands the rows of a batch to the threads (or makes them now); returns the arrays to be filled, and futures."""
    recipe = reader.recipe
    arrays = {
        "image": np.zeros((len(index_B), recipe.image_size, recipe.image_size, recipe.channels), np.uint8),
        "label": np.full(len(index_B), -1, np.int32),
        "index": index_B.astype(np.int32),
        "epoch": epoch_B.astype(np.int32),
        "valid": index_B >= 0,
    }
    real = int(arrays["valid"].sum())  # padding stands at the end
    chunk = CHUNK if pool else max(real, 1)
    parts = [slice(first, min(first + chunk, real)) for first in range(0, real, chunk)]
    return arrays, [submit(pool, make_chunk, reader, arrays, part) for part in parts]


def submit(pool, function, *args):
    """A future of the function's result; computed now where there is no pool."""
    if pool:
        return pool.submit(function, *args)
    future = concurrent.futures.Future()
    future.set_result(function(*args))
    return future


def make_chunk(reader, arrays, part):
    """Fills some rows of a batch; returns the list of Damaged."""
    label_B, valid_B, damaged = reader.rows(arrays["index"][part], arrays["epoch"][part], arrays["image"][part])
    arrays["label"][part], arrays["valid"][part] = label_B, valid_B
    return damaged


def finish(arrays, futures, ledger):
    """Waits for the rows of a batch and counts what was corrupt, in the order of the batches."""
    damaged = [one for future in futures for one in future.result()]
    ledger.enter(int((arrays["index"] >= 0).sum()), damaged)
    return HostBatch(arrays, len(ledger.corrupt))


class Ledger:
    """Which examples of a source are corrupt, and whether they are too many."""

    def __init__(self, source, max_fraction, replace):
        self.source = source
        self.max_fraction = max_fraction
        self.replace = replace
        self.corrupt = set()
        self.read = 0

    def enter(self, read, damaged):
        """Counts the examples of one batch; names each corrupt one once."""
        for one in damaged:
            if one.index not in self.corrupt:
                self.corrupt.add(one.index)
                logging.warning("corrupt example %s is left out: %s", one.identity, one.reason)
        self.read += read + (len(damaged) if self.replace else 0)  # each was followed by reading another one
        self.check()

    def check(self, final=False):
        """Raises UserError if more than the allowed fraction is corrupt, once enough were read to tell."""
        seen = min(self.read, self.source.num_examples)
        enough = final or not self.max_fraction or seen >= min(FEWEST_READ, self.source.num_examples)
        if enough and len(self.corrupt) > self.max_fraction * seen:
            raise UserError(
                f"{len(self.corrupt)} of {seen} examples read from {self.source.name} ({self.source.location}) are "
                f"corrupt, more than data.max_corrupt_fraction={self.max_fraction}; repair or remove those that the "
                "warnings name, or allow a larger fraction."
            )
