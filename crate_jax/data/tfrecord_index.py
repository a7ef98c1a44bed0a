"""Where each record of a TFRecord file begins: found once by walking the chain, kept beside the data.

A record is framed as length (8 bytes, little-endian), checksum (4), content, checksum (4). The walk reads twelve bytes
a record of a local file and skips the rest; a remote file is read through. Afterwards any record costs one seek.
"""

import concurrent.futures
import hashlib
import logging
import os
import struct
import threading

import numpy as np

from crate_jax.data.folder_listing import is_remote
from crate_jax.errors import UserError

HEADER = 12  # bytes before the content
FOOTER = 4  # bytes after it
BLOCK = 2**22  # bytes fetched at once from a remote file, where a seek costs more than a megabyte


def opened(path):
    """A file, local or remote, for reading at any place."""
    if is_remote(path):
        from etils import epath

        return epath.Path(path).open("rb")
    return open(path, "rb", buffering=0)


def offsets_of(path):
    """Where each record's content begins, and where the last one's frame ends.

    Args:
        path: of a TFRecord file.

    Returns:
        int64 of length R + 1: record r is content of `offsets[r + 1] - offsets[r] - HEADER - FOOTER` bytes.

    Raises:
        UserError: the chain breaks, so the file is not a whole TFRecord.
    """
    found, place = [HEADER], 0
    with opened(path) as file:
        size = file.seek(0, os.SEEK_END)
        step = Blocks(file) if is_remote(path) else file
        while place < size:
            step.seek(place)
            header = step.read(HEADER)
            place += HEADER + FOOTER + (struct.unpack("<Q", header[:8])[0] if len(header) == HEADER else size)
            if place > size:
                raise UserError(f"{path} is cut off after {len(found) - 1} records; copy or prepare it again.")
            found.append(place + HEADER)
    return np.array(found, np.int64)


class Blocks:
    """Small forward reads of a remote file, out of large ones."""

    def __init__(self, file):
        self.file, self.place, self.start, self.block = file, 0, 0, b""

    def seek(self, place):
        """Where the next read begins."""
        self.place = place

    def read(self, count):
        """`count` bytes, fewer at the end."""
        if not self.start <= self.place <= self.place + count <= self.start + len(self.block):
            self.file.seek(self.place)
            self.start, self.block = self.place, self.file.read(BLOCK)
        return self.block[self.place - self.start :][:count]


class TfRecordFile:
    """Records of one file by number."""

    def __init__(self, path, offsets):
        self.path = path
        self.offsets = offsets
        self.lock = threading.Lock()
        self.file = None

    def __reduce__(self):  # neither a lock nor an open file travels to another process
        return TfRecordFile, (self.path, self.offsets)

    def records(self, numbers):
        """Records by their number in the file; an exception in place of one that cannot be read."""
        return [self._one(int(number)) for number in numbers]

    def _one(self, number):
        start = int(self.offsets[number])
        length = int(self.offsets[number + 1]) - start - HEADER - FOOTER
        try:
            with self.lock:
                if self.file is None:
                    self.file = opened(self.path)
                if not is_remote(self.path):
                    record = os.pread(self.file.fileno(), length, start)
                else:
                    self.file.seek(start)
                    record = self.file.read(length)
        except OSError as error:
            return error
        return record if len(record) == length else OSError(f"{self.path} is cut off at record {number}")


def open_files(paths, folder):
    """Every file of a split, with its index.

    Args:
        paths: TFRecord files.
        folder: of the data set; the index is kept here, or in the user's cache where this cannot be written.

    Returns:
        A dictionary from path to TfRecordFile.
    """
    kept = load_index(folder)
    absent = [path for path in paths if os.path.basename(path) not in kept]
    if absent:
        logging.warning("indexing %d TFRecord files of %s, once", len(absent), folder)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            found = list(pool.map(offsets_of, absent))
        kept |= {os.path.basename(path): offsets for path, offsets in zip(absent, found, strict=True)}
        save_index(folder, kept)
    return {path: TfRecordFile(path, kept[os.path.basename(path)]) for path in paths}


def places(folder):
    """Where an index may lie: beside the data, or in the user's cache under the folder's name."""
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    beside = [] if is_remote(folder) else [os.path.join(folder, "record_offsets.npz")]
    return [*beside, os.path.join(cache, "crate_jax", f"record_offsets_{name}.npz")]


def load_index(folder):
    """File name -> offsets, of every file that was indexed before."""
    for path in places(folder):
        try:
            with np.load(path) as kept:
                return {name: kept[name] for name in kept.files}
        except (OSError, ValueError, KeyError):
            continue  # none there, or one that was cut off: it is made again
    return {}


def save_index(folder, kept):
    """Writes the index where it can be written, whole or not at all."""
    for path in places(folder):
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            unfinished = f"{path}.{os.getpid()}.npz"
            np.savez(unfinished, **kept)
            os.replace(unfinished, path)
            return
        except OSError:
            continue
    logging.warning("the index of %s could not be kept: no folder for it can be written", folder)
