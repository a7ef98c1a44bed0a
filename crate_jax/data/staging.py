"""A split is copied to fast local storage at start: `data.stage_dir=/dev/shm/me`, once per host.

Files of the right size and time that are there already stay, so the processes of one host share them and a run that
starts again copies nothing; what was changed since is copied again. Every host copies the whole split: any host may
need any example.
"""

import concurrent.futures
import dataclasses
import fcntl
import functools
import logging
import os
import shutil

from etils import epath

from crate_jax.errors import UserError
from crate_jax.storage import check_space, is_remote
from crate_jax.storage_errors import retried, user_errors

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
    if is_remote(folder):
        raise UserError(f"data.stage_dir={folder}: copies are for a fast local disk; name a folder of this machine.")
    store = source.store
    if not hasattr(store, "relative_paths"):
        return source
    target = os.path.join(os.path.abspath(os.path.expanduser(folder)), f"crate_jax_{source.fingerprint}")
    files = [(f"{store.base}/{relative}", os.path.join(target, relative)) for relative in store.relative_paths()]
    with user_errors(f"data.stage_dir={folder} cannot be written"):
        os.makedirs(target, exist_ok=True)
        with open(target + ".lock", "a") as lock:  # dropped when the process ends, however it ends
            fcntl.flock(lock, fcntl.LOCK_EX)
            _copy_missing(files, target)
    return dataclasses.replace(source, store=dataclasses.replace(store, base=target), location=target)


def _copy_missing(files, folder):
    """Copies those of the files (path, copy) that are not in the folder in full."""
    with concurrent.futures.ThreadPoolExecutor(COPIES) as pool:
        stats = pool.map(lambda file: retried(lambda: epath.Path(file[0]).stat(), file[0]), files)
        listed = [(*file, stat.length, int(stat.mtime)) for file, stat in zip(files, stats, strict=True)]
        missing = [file for file in listed if not _is_there(*file[1:])]
        if not missing:
            return
        needed = sum(size for _, _, size, _ in missing)
        check_space(
            folder,
            needed,
            "of the data set are to be copied there; free space, name another data.stage_dir, or leave it out.",
        )
        logging.info("copying %d files (%.1f GiB) to %s", len(missing), needed / 2**30, folder)
        for _ in pool.map(lambda file: retried(functools.partial(_copy, *file), file[0]), missing):
            pass


def _is_there(copy, size, time):
    found = os.stat(copy) if os.path.isfile(copy) else None
    return found is not None and (found.st_size, int(found.st_mtime)) == (size, time)


def _copy(path, copy, size, time):
    """Copies one file under another name, and renames it when it is complete; OSError if it is not of this size."""
    unfinished = f"{copy}.unfinished"
    os.makedirs(os.path.dirname(copy), exist_ok=True)
    with epath.Path(path).open("rb") as source, open(unfinished, "wb") as target:
        shutil.copyfileobj(source, target, 2**22)
    if os.path.getsize(unfinished) != size:
        raise OSError(f"its copy has {os.path.getsize(unfinished)} bytes instead of {size}")
    os.utime(unfinished, (time, time))
    os.replace(unfinished, copy)
