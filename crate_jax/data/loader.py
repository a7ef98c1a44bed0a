"""Grain makes the rows of this process ahead of time, in threads or in processes, chunk by chunk.

A chunk is a part of one batch's rows, so that no worker holds a whole batch of a large host, and so that workers are
busy however few rows a host has: each has chunks of its own, of this batch and of those after it. Chunk k is a
function of (seed, k), so a run resumes by starting at another k.
"""

import contextlib
import dataclasses
import logging
import math
import multiprocessing
import os
import pathlib
import pickle
import shutil
import sys
import tempfile
import threading
import time
import types

import numpy as np

from crate_jax.data.reading import raise_file_limit

CHUNK_ROWS = 64  # at most
CHUNK_BYTES = 2 * 2**20  # of pixels, about
SHARED_MEMORY = "/dev/shm"
START_SECONDS = 30  # for the system to start worker processes


def chunk_rows(num_rows, row_bytes):
    """Rows of a chunk: `num_rows` in equal parts of at most CHUNK_ROWS rows, and of about CHUNK_BYTES."""
    most = min(CHUNK_ROWS, max(1, CHUNK_BYTES // row_bytes))
    parts = max(1, -(-num_rows // most))
    return max(1, -(-num_rows // parts))


@dataclasses.dataclass
class Chunks:
    """A random access source for Grain: chunk k as a dictionary of arrays.

    Attributes:
        reader: RowReader.
        order: (step, rows) -> index_R, epoch_R: which examples stand in these rows; index -1 is padding, which must
            be at the end.
        rows: of the global batch, that this process holds.
        first_step, num_steps: batches to make.
        rows_per_chunk: the last chunk of a batch may have fewer.
    """

    reader: object
    order: object
    rows: np.ndarray
    first_step: int
    num_steps: int
    rows_per_chunk: int

    @property
    def per_batch(self):
        """Chunks of one batch."""
        return -(-len(self.rows) // self.rows_per_chunk)

    def __len__(self):
        return self.num_steps * self.per_batch

    def __getitem__(self, number):
        """{"image": uint8 RxHxWxC, "label", "index", "epoch": int32 R, "valid": bool R, "damaged": list of Damaged}."""
        step, part = divmod(int(number), self.per_batch)
        rows = self.rows[part * self.rows_per_chunk :][: self.rows_per_chunk]
        index_R, epoch_R = self.order(self.first_step + step, rows)
        images_RxHxWxC = np.zeros((len(rows), *self.reader.recipe.shape), np.uint8)
        label_R, valid_R = np.full(len(rows), -1, np.int32), np.zeros(len(rows), bool)
        real, damaged = int((index_R >= 0).sum()), []
        if real:
            label_R[:real], valid_R[:real], damaged = self.reader.rows(
                index_R[:real], epoch_R[:real], images_RxHxWxC[:real]
            )
        return {
            "image": images_RxHxWxC,
            "label": label_R,
            "index": index_R.astype(np.int32),
            "epoch": epoch_R.astype(np.int32),
            "valid": valid_R,
            "damaged": damaged,
        }


class StoredChunks:
    """Chunks as worker processes get them: the name of a file, read when the first chunk is wanted.

    The index of a large data set does not fit into the pipe through which a process is started, and each start would
    wait for the one before it.
    """

    def __init__(self, chunks, path):
        self._path, self._length, self._chunks, self._lock = path, len(chunks), None, threading.Lock()
        pathlib.Path(path).write_bytes(pickle.dumps(chunks))

    def __getstate__(self):
        return self._path, self._length

    def __setstate__(self, state):
        (self._path, self._length), self._chunks, self._lock = state, None, threading.Lock()

    def __len__(self):
        return self._length

    def __getitem__(self, number):
        with self._lock:
            if self._chunks is None:
                self._chunks = pickle.loads(pathlib.Path(self._path).read_bytes())
        return self._chunks[number]


@contextlib.contextmanager
def loaded(chunks, threads, processes):
    """An iterator over all chunks in their order, made ahead by workers.

    Args:
        chunks: a Chunks.
        threads: in each process; 0 makes chunks when they are requested.
        processes: that share the work; 0 is this one.

    Yields:
        A Grain iterator; `close()` on it, from another thread, ends a wait in `next`.
    """
    import grain
    from absl import flags

    raise_file_limit()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    if not processes:
        with contextlib.closing(iter(grain.MapDataset.source(chunks).to_iter_dataset(options))) as iterator:
            yield iterator
        return
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain asks absl for its settings, which only a program of absl's has parsed
    with tempfile.TemporaryDirectory(prefix="crate_jax_data_") as folder:
        stored = StoredChunks(chunks, os.path.join(folder, "chunks.pickle"))
        dataset = grain.MapDataset.source(stored).to_iter_dataset(options)
        chunk_bytes = chunks.rows_per_chunk * math.prod(chunks.reader.recipe.shape)
        if not shared_memory_holds(processes * (threads + 4) * chunk_bytes):
            through_pipes = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
            dataset = grain.experimental.WithOptionsIterDataset(dataset, through_pipes)
        ahead = grain.MultiprocessingOptions(num_workers=processes, per_worker_buffer_size=max(2, threads))
        iterator = iter(dataset.mp_prefetch(ahead, worker_init_fn=end_with_parent))
        with contextlib.closing(iterator):
            with without_main_module():
                before = len(multiprocessing.active_children())
                iterator.get_state()  # makes all workers known, so that `close` ends each of them
                iterator.start_prefetch()  # Grain starts each process in a thread of its own
                deadline = time.monotonic() + START_SECONDS
                while len(multiprocessing.active_children()) < before + processes and time.monotonic() < deadline:
                    time.sleep(0.01)
            yield iterator


def shared_memory_holds(needed):
    """Whether rows may travel in shared memory: a container has 64 MiB of it unless told otherwise."""
    if not os.path.isdir(SHARED_MEMORY):
        return True  # not a Linux system, where it is a part of the main memory
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < 2 * needed:
        logging.warning(
            "%s has %.0f MiB free, %.0f are wanted for worker processes: rows travel through pipes, which is slower; "
            "start the container with --shm-size=%dm.",
            SHARED_MEMORY,
            free / 2**20,
            2 * needed / 2**20,
            -(-2 * needed // 2**20),
        )
    return free >= 2 * needed


def end_with_parent(worker, workers):
    """Runs in each worker process when it starts: it ends when the parent does, however that ends."""
    del worker, workers
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="crate-jax parent", daemon=True).start()


_starting = threading.Lock()


@contextlib.contextmanager
def without_main_module():
    """Child processes started in here import neither the caller's script again, nor files of the current folder.

    A script without `if __name__ == "__main__"` would train once more in every one of them.
    """
    with _starting:
        main, safe = sys.modules["__main__"], os.environ.get("PYTHONSAFEPATH")
        sys.modules["__main__"] = types.ModuleType("__main__")
        os.environ["PYTHONSAFEPATH"] = "1"
        try:
            yield
        finally:
            sys.modules["__main__"] = main
            if safe is None:
                del os.environ["PYTHONSAFEPATH"]
            else:
                os.environ["PYTHONSAFEPATH"] = safe
