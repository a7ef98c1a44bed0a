"""What lies in a folder, local or in an object store: pictures at any depth, their bytes, and names fit to print.

Only regular files count: a named pipe, a socket or a device that is called `x.png` would block its reader.
"""

import concurrent.futures
import errno
import functools
import os
import pathlib
import stat
from collections import Counter
from typing import NamedTuple

from etils import epath

from crate_jax.errors import UserError, first_line
from crate_jax.storage import exists, is_remote
from crate_jax.storage_errors import Failure, storage_failure, user_errors

PHOTOGRAPHS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".jp2", ".tif", ".tiff")
PICTURES = frozenset((*PHOTOGRAPHS, ".gif", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"))
# what macOS, Synology, Windows and ext4 leave in folders; the second holds thumbnails
NOT_DATA = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"))
REMOTE_REQUESTS = 16  # at once
REMOTE_READ = 2**24  # bytes at once
KINDS = {"p": "named pipe", "s": "socket", "c": "device", "b": "device"}  # by the first letter of `stat.filemode`


class Entry(NamedTuple):
    """Something in a folder."""

    name: str  # as the file system has it
    kind: str  # "file", "folder", "link to nowhere", or what else it is
    size: int = 0  # bytes of a file, 0 in an object store
    real: str | None = None  # the true place of a folder


def printable(name):
    """A file or class name for logs, JSON and figures: one line of valid Unicode.

    Bytes that are not UTF-8 are written as `\\xe9`, control characters as `\\n`.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def listed(names, most=5):
    """The first few of some names for a message, and how many more there are."""
    names = [printable(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def read_file(path):
    """A regular file's content, local or remote; OSError if it cannot be read, or is no regular file."""
    if is_remote(path):
        parts = []
        with epath.Path(path).open("rb") as file:  # a read of all requests the size first
            while not parts or len(parts[-1]) == REMOTE_READ:
                parts.append(file.read(REMOTE_READ))
        return b"".join(parts)
    # without O_NONBLOCK a pipe blocks before it can be looked at; regular files ignore the flag
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.ENODEV, "not a regular file")
        return file.read()


def is_picture(name):
    """Whether a file is a picture by its name."""
    return pathlib.PurePosixPath(name).suffix.lower() in PICTURES


def is_there(path):
    """Whether a folder is there."""
    if not is_remote(path):
        return os.path.isdir(path)
    with user_errors(f"{printable(path)} cannot be listed"):
        if not (found := epath.Path(path).is_dir()):
            epath.Path(path).exists()  # raises: TensorFlow says of any failure that there is no such folder
    return found


def is_file(path):
    """Whether a regular file is there."""
    return exists(path, printable(path)) and (is_remote(path) or os.path.isfile(path))


def entries_of(folder, top=False):
    """A list of Entry, sorted by name, without what is hidden and what systems leave.

    Raises:
        UserError: that fails; or a link to nowhere at the `top`, where a class or split would vanish without a word.
    """
    try:
        found = _remote_entries(folder) if is_remote(folder) else map(_local_entry, os.scandir(folder))
        # sorted: which of two links to one folder is followed must not depend on the file system
        entries = sorted((entry for entry in found if not _is_ignored(entry.name)), key=lambda entry: entry.name)
    except Exception as error:  # object stores raise what their client library raises
        is_there(folder)  # raises a store's own words, where TensorFlow has none
        failure = storage_failure(error) or Failure(first_line(error))
        raise failure._replace(words=printable(failure.words)).told(f"{printable(folder)} cannot be listed") from error
    for entry in entries if top else ():
        if entry.kind == "link to nowhere" and not is_picture(entry.name):
            raise UserError(f"{printable(os.path.join(folder, entry.name))} is a link to nowhere; mend or remove it.")
    return entries


def _is_ignored(name):
    return name.startswith(".") or name in NOT_DATA


def _local_entry(entry):
    try:
        if entry.is_dir():
            return Entry(entry.name, "folder", real=os.path.realpath(entry))
        found = entry.stat()
    except OSError:
        return Entry(entry.name, "link to nowhere" if entry.is_symlink() else "file")
    return Entry(entry.name, KINDS.get(stat.filemode(found.st_mode)[0], "file"), found.st_size)


@functools.lru_cache(maxsize=100_000)
def _remote_entries(folder):
    """One request to list, and one for each name that is no picture's, at once; listed once in a process."""
    paths = [path for path in epath.Path(folder).iterdir() if not _is_ignored(path.name)]
    others = [path for path in paths if not is_picture(path.name)]
    with concurrent.futures.ThreadPoolExecutor(REMOTE_REQUESTS) as pool:
        is_folder = dict(zip(others, pool.map(lambda path: path.is_dir(), others), strict=True))
    return [
        Entry(path.name, "folder", real=str(path)) if is_folder.get(path) else Entry(path.name, "file")
        for path in paths
    ]


def pictures_below(base, skip=()):
    """Every picture in a folder, at any depth, but for those in the sub-folders that `skip` names.

    Returns:
        A sorted list of (path relative to base with forward slashes, size in bytes), and a Counter of what was left
        out: endings of files, or kinds. Hidden files and folders are left out silently; links are followed, each
        folder once.

    Raises:
        UserError: a folder that cannot be listed; a link to nowhere in the place of a class.
    """
    found, others, seen, level = [], Counter(), {os.path.realpath(base)}, [""]
    with concurrent.futures.ThreadPoolExecutor(REMOTE_REQUESTS) as pool:
        run = pool.map if is_remote(base) else map
        while level:
            below = []
            listings = run(lambda place: entries_of(os.path.join(base, place), top=not place), level)
            for place, entries in zip(level, listings, strict=True):
                for entry in entries:
                    path = place + entry.name
                    if entry.kind == "folder":
                        if not place and entry.name in skip:
                            continue
                        if entry.real in seen:
                            others["second way to a folder"] += 1
                        else:
                            seen.add(entry.real)
                            below.append(path + "/")
                    elif is_picture(entry.name) and entry.kind in ("file", "link to nowhere"):
                        found.append((path, entry.size))
                    else:
                        ending = pathlib.PurePosixPath(entry.name).suffix.lower() or entry.name
                        others[printable(ending) if entry.kind == "file" else entry.kind] += 1
            level = below
    return sorted(found), others
