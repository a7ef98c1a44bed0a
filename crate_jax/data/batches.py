"""Chunks become batches on the devices, in a thread that works ahead; what is corrupt is entered in order.

Batches are put together and placed while the device computes. The consumer knows how long it waited all the same.
"""

import contextlib
import dataclasses
import logging
import queue
import re
import signal
import threading
import time
from multiprocessing import resource_tracker

import numpy as np

from crate_jax.data.example import Source
from crate_jax.data.loader import loaded
from crate_jax.errors import UserError, how_ended

FEWEST_READ = 1000  # examples (or all, if there are fewer) before a fraction of them means anything
JOIN_SECONDS = 5  # that `close` waits for a worker which is reading
LOOK_SECONDS = 5  # after which a consumer that waits looks whether the worker processes live


class Batches:
    """An iterator over batches, the next of which are made ahead of time.

    What a worker raises is raised where the consumer would have got the batch.

    Attributes:
        source: that is read.
        wait_seconds: time that the consumer has waited so far.
        corrupt_examples: distinct corrupt examples met by this process up to the batch handed out last.
    """

    def __init__(self, chunks, workers, ledger, depth, finish):
        """Starts at once.

        Args:
            chunks: a Chunks.
            workers: threads and processes, see `loader.loaded`.
            ledger: a Ledger.
            depth: batches kept ready.
            finish: a function of the dictionary of this process's rows, that returns the batch; called in the thread.
        """
        self.source, self.wait_seconds, self.corrupt_examples = ledger.source, 0.0, 0
        self._ready, self._stop = queue.Queue(maxsize=depth), threading.Event()
        self._loaded = []  # (iterator, worker processes), entered by the thread
        work = (chunks, workers, ledger, finish, self._ready, self._stop, self._loaded)
        self._thread = threading.Thread(target=_fill, args=work, name="crate-jax data", daemon=True)
        self._thread.start()

    def __iter__(self):
        return self

    def __next__(self):
        begun = time.perf_counter()
        try:
            batch, corrupt_examples, error = self._entry()  # which the handler of a signal may leave
        finally:
            self.wait_seconds += time.perf_counter() - begun
        if error is not None:
            self._stop.set()
            raise error
        self.corrupt_examples = corrupt_examples
        return batch

    def _entry(self):
        """What the thread puts next."""
        while not self._stop.is_set():
            try:
                return self._ready.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if code := self._lost():
                    return None, 0, _lost_worker(code)  # Grain may wait for the rest of what was being sent
        return None, 0, StopIteration()

    def _lost(self):
        """The exit code of a worker process that was killed, after the others were ended too; None while all live."""
        workers = [worker for _, workers in self._loaded for worker in workers]
        code = next((worker.exitcode for worker in workers if worker.exitcode), None)
        for worker in workers if code else ():
            worker.kill()
        return code

    def close(self):
        """Ends the workers and forgets what they made; may be called twice."""
        self._stop.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._ready.get_nowait()
        if self._thread is threading.current_thread():
            return
        self._thread.join(1)
        if self._lost():
            return  # the thread may never end; it is a daemon
        for iterator, _ in self._loaded if self._thread.is_alive() else ():
            with contextlib.suppress(Exception):  # the thread, which waits for a chunk, may close it as well
                iterator.close()
        self._thread.join(JOIN_SECONDS)

    def __del__(self):
        self._stop.set()


def _fill(chunks, workers, ledger, finish, ready, stop, entered):
    """The thread's work; holds no reference to the Batches object, so that one left behind can be collected."""
    if workers[1]:
        resource_tracker.ensure_running()  # first: it unblocks signals in the thread that starts it
    # worker processes inherit this: a signal to the whole group is answered by the parent, which ends them
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})

    def put(*entry):
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(entry, timeout=0.1)

    try:
        with loaded(chunks, *workers) as (iterator, processes):
            entered.append((iterator, processes))
            for arrays in _host_batches(iterator, chunks, ledger):
                put(finish(arrays), len(ledger.corrupt), None)
                if stop.is_set():
                    return
            put(None, 0, StopIteration())
    except BaseException as error:  # of any type: the consumer must not wait indefinitely
        put(None, 0, _explained(error))


def _explained(error):
    """A lost worker process as a sentence; any other error as it is."""
    lost = "Worker process was terminated" in str(error) and re.search(r"exit code (-?\d+)", str(error))
    return _lost_worker(lost[1]) if lost else error


def _lost_worker(code):
    return UserError(
        f"a process that prepares images {how_ended(int(code))}; choose fewer data.num_workers, or "
        "data.worker_processes=0."
    )


def _host_batches(iterator, chunks, ledger):
    """Joins chunks to the rows of this process, batch by batch: dictionaries of arrays, rows in ascending order."""
    for _ in range(chunks.num_steps):
        arrays, damaged = None, []
        for part in range(chunks.per_batch):
            chunk = next(iterator)
            damaged += chunk.pop("damaged")
            if arrays is None:
                shapes = {key: (len(chunks.rows), *value.shape[1:]) for key, value in chunk.items()}
                arrays = {key: np.empty(shapes[key], value.dtype) for key, value in chunk.items()}
            for key, value in chunk.items():
                arrays[key][part * chunks.rows_per_chunk :][: len(value)] = value
        ledger.enter(int((arrays["index"] >= 0).sum()), damaged)
        yield arrays
    ledger.check(final=True)


@dataclasses.dataclass
class Ledger:
    """Which examples of a source are corrupt, and whether they are too many."""

    source: Source
    max_fraction: float  # of the examples read, that may be corrupt
    replaces: bool  # corrupt examples are replaced by others, which are read too
    corrupt: set = dataclasses.field(default_factory=set)  # what they are called
    read: int = 0  # examples so far

    def enter(self, read, damaged):
        """Counts the examples of one batch; names each corrupt one once."""
        for example in damaged:
            if example.identity not in self.corrupt:
                self.corrupt.add(example.identity)
                logging.warning("corrupt example %s is left out: %s", example.identity, example.error)
        self.read += read + (len(damaged) if self.replaces else 0)  # each was followed by reading another one
        self.check()

    def check(self, final=False):
        """Raises UserError if more than the allowed fraction is corrupt, once enough were read to tell.

        At the end (`final`) of a few examples of many, such as those of a figure, one that is corrupt tells nothing.
        """
        seen = min(self.read, self.source.num_examples)
        enough = not self.max_fraction or seen >= min(FEWEST_READ, self.source.num_examples)
        enough = enough or (final and len(self.corrupt) >= seen > 0)
        if enough and len(self.corrupt) > self.max_fraction * seen:
            raise UserError(
                f"{len(self.corrupt)} of {seen} examples read from {self.source.name} ({self.source.location}) are "
                f"corrupt, more than data.max_corrupt_fraction={self.max_fraction}; repair or remove those that the "
                "warnings name, or allow a larger fraction."
            )
