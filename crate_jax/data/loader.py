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
from collections.abc import Callable

import numpy as np

from crate_jax.cores import raise_file_limit
from crate_jax.data.rows import RowReader

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
    """A random access source for Grain: chunk k as a dictionary of arrays."""

    reader: RowReader
    order: Callable  # (step, row_R) -> index_R, epoch_R: which examples stand in these rows; padding is at the end
    rows: np.ndarray  # of the global batch, that this process holds
    first_step: int
    num_steps: int  # batches to make
    path: pathlib.Path | None = None  # of their pickle, in whose place its name is sent to a worker process

    def __post_init__(self):
        self.rows_per_chunk = chunk_rows(len(self.rows), math.prod(self.reader.shape))  # the last may have fewer
        self.per_batch = -(-len(self.rows) // self.rows_per_chunk)

    def __reduce_ex__(self, protocol):
        """The index of a large data set does not fit into the pipe through which a process is started, and each start
        would wait for the one before it."""
        return (_unpickled, (self.path,)) if self.path else super().__reduce_ex__(protocol)

    def __len__(self):
        return self.num_steps * self.per_batch

    def __getitem__(self, number):
        """{"image": uint8 RxHxWxC, "label", "index", "epoch": int32 R, "valid": bool R, "damaged": list of Example}."""
        step, part = divmod(int(number), self.per_batch)
        rows = self.rows[part * self.rows_per_chunk :][: self.rows_per_chunk]
        index_R, epoch_R = self.order(self.first_step + step, rows)
        images_RxHxWxC, label_R, valid_R, damaged = self.reader.rows(index_R, epoch_R)
        return {
            "image": images_RxHxWxC,
            "label": label_R,
            "index": index_R.astype(np.int32),
            "epoch": epoch_R.astype(np.int32),
            "valid": valid_R,
            "damaged": damaged,
        }


def _unpickled(path):
    return pickle.loads(path.read_bytes())


@contextlib.contextmanager
def loaded(chunks, threads, processes):
    """An iterator over all chunks in their order, made ahead by workers.

    Args:
        chunks: a Chunks.
        threads: in each process; 0 makes chunks when they are requested.
        processes: that share the work; 0 is this one.

    Yields:
        A Grain iterator, and the worker processes. `close()` on the iterator, from another thread, ends a wait in
        `next`, unless a worker was killed while it sent a chunk through a pipe: Grain waits for the rest of it then.
    """
    import grain
    from absl import flags

    raise_file_limit()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    if not processes:
        with contextlib.closing(iter(grain.MapDataset.source(chunks).to_iter_dataset(options))) as iterator:
            yield iterator, []
        return
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain asks absl for its settings, which only a program of absl's has parsed
    with tempfile.TemporaryDirectory(prefix="crate_jax_data_") as folder:
        path = pathlib.Path(folder, "chunks.pickle")
        path.write_bytes(pickle.dumps(chunks))
        stored = dataclasses.replace(chunks, path=path)
        dataset = grain.MapDataset.source(stored).to_iter_dataset(options)
        chunk_bytes = chunks.rows_per_chunk * math.prod(chunks.reader.shape)
        if not shared_memory_holds(processes * (threads + 4) * chunk_bytes):
            through_pipes = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
            dataset = grain.experimental.WithOptionsIterDataset(dataset, through_pipes)
        ahead = grain.MultiprocessingOptions(num_workers=processes, per_worker_buffer_size=max(2, threads))
        iterator = iter(dataset.mp_prefetch(ahead, worker_init_fn=_end_with_parent))
        with contextlib.closing(iterator):
            with _without_main_module():
                before = set(multiprocessing.active_children())
                iterator.get_state()  # makes all workers known, so that `close` ends each of them
                iterator.start_prefetch()  # Grain starts each process in a thread of its own
                deadline = time.monotonic() + START_SECONDS
                workers = []
                while len(workers) < processes and time.monotonic() < deadline:
                    time.sleep(0.01)
                    workers = [child for child in multiprocessing.active_children() if child not in before]
            yield iterator, workers


def shared_memory_holds(needed):
    """Whether rows may travel in shared memory: a container has 64 MiB of it unless told otherwise."""
    if sys.platform != "linux":
        return True  # it is a part of the main memory
    free = shutil.disk_usage(SHARED_MEMORY).free if os.access(SHARED_MEMORY, os.W_OK | os.X_OK) else 0
    if free < 2 * needed:
        logging.warning(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free, {2 * needed / 2**20:.0f} are wanted for worker "
            "processes: rows travel through pipes, which is slower; start the container with "
            f"--shm-size={-(-2 * needed // 2**20)}m."
        )
    return free >= 2 * needed


def _end_with_parent(*_):
    """Runs in each worker process when it starts: it ends when the parent does, however that ends."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, name="crate-jax parent", daemon=True).start()


_starting = threading.Lock()


@contextlib.contextmanager
def _without_main_module():
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
