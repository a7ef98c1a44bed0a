"""A split is copied to fast local storage at start: `data.stage_dir=/dev/shm/me`, once per host.

Files of the right size that are there already stay, so the processes of one host share them and a run that starts again
copies nothing. Every host copies the whole split: any host may need any example.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import functools
import logging
import os
import shutil

from crate_jax.data.reading import retried
from crate_jax.errors import UserError

COPIES = 32  # at once


def staged(source, folder):
    """A source that reads copies of its files.

    Args:
        source: a Source; one in memory is returned unchanged.
        folder: local, for the copies; a sub-folder per fingerprint is made in it.

    Returns:
        A Source of the same examples and fingerprint.

    Raises:
        UserError: there is too little space, the folder cannot be written, or a file cannot be read.
    """
    index = source.read.args[0]
    if not hasattr(index, "relative_paths"):
        return source
    target = os.path.join(os.path.abspath(os.path.expanduser(folder)), f"crate_jax_{source.fingerprint}")
    with concurrent.futures.ThreadPoolExecutor(COPIES) as pool:
        paths = [f"{index.base}/{relative}" for relative in index.relative_paths()]
        sizes = pool.map(lambda path: retried(functools.partial(size_of, path), path), paths)
        copies = [os.path.join(target, relative) for relative in index.relative_paths()]
        files = list(zip(paths, copies, sizes, strict=True))
    try:
        os.makedirs(target, exist_ok=True)
        with locked(target + ".lock"):
            copy_missing(files, target)
    except OSError as error:
        raise UserError(f"data.stage_dir={folder} cannot be written ({error}); name another folder.") from error
    read = functools.partial(source.read.func, dataclasses.replace(index, base=target))
    return dataclasses.replace(source, read=read, location=target)


@contextlib.contextmanager
def locked(path):
    """Held by one process of this host at a time, dropped when it ends, however it ends."""
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def size_of(path):
    """Bytes of a file."""
    from etils import epath

    return epath.Path(path).stat().length


def copy_missing(files, folder):
    """Copies the files that are not there in full.

    Args:
        files: a list of (path, copy, size in bytes).
        folder: of the copies.

    Raises:
        UserError: too little space; a copy that is not of that size.
    """
    missing = [file for file in files if not (os.path.isfile(file[1]) and os.path.getsize(file[1]) == file[2])]
    if not missing:
        return
    needed, free = sum(size for _, _, size in missing), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder} has {free / 2**30:.1f} GiB free, and {needed / 2**30:.1f} GiB of the data set are to be copied "
            "there; free space, name another data.stage_dir, or leave it out."
        )
    logging.info("copying %d files (%.1f GiB) to %s", len(missing), needed / 2**30, folder)
    with concurrent.futures.ThreadPoolExecutor(COPIES) as pool:
        for _ in pool.map(lambda file: retried(functools.partial(copied, *file), file[0]), missing):
            pass


def copied(path, copy, size):
    """Copies one file under another name, and renames it when it is complete.

    Raises:
        OSError: the copy is not of this size.
    """
    from etils import epath

    unfinished = f"{copy}.unfinished"
    os.makedirs(os.path.dirname(copy), exist_ok=True)
    with epath.Path(path).open("rb") as source, open(unfinished, "wb") as target:
        shutil.copyfileobj(source, target, 2**22)
    if os.path.getsize(unfinished) != size:
        raise OSError(f"its copy has {os.path.getsize(unfinished)} bytes instead of {size}")
    os.replace(unfinished, copy)
