"""Folders and files that may be local or in an object store (`gs://`): names, and writes of whole files."""

import errno
import json
import os
import re
import shutil
import uuid

from etils import epath

from crate_jax.errors import UserError
from crate_jax.storage_errors import retried, user_errors

GLOB = "*?[]\\"
LONGEST_NAME = 255  # bytes, of a file or folder
STORES = ("gs", "s3", "az", "hf")  # that epath knows
LIKE_BUCKETS = tuple(f"/{store}/" for store in STORES)


def is_remote(path):
    """Whether a path is in an object store.

    Raises:
        UserError: it is an address of another kind, such as http://.
    """
    kind, found, _ = os.fspath(path).partition("://")
    if not found and (cut := re.match(rf"({'|'.join(STORES)}):/+", kind)):
        raise UserError(f"{path}: an address in an object store begins with {cut[1]}://, with two slashes.")
    if found and kind not in STORES:
        raise UserError(f"{path}: no files are read or written at {kind}://; name a local path, or one in gs://.")
    return bool(found)


def absolute(path):
    """The path from the root, with `~` expanded; a path in an object store as it is."""
    text = os.fspath(path)
    return epath.Path(text if is_remote(text) else local(os.path.abspath(os.path.expanduser(text))))


def local(text):
    """The same local path, as text that epath takes for no bucket: it reads /gs/x as gs://x, but //gs/x as a folder."""
    return f"/{text}" if text.startswith(LIKE_BUCKETS) else text


def output_folder(text, flag="--workdir"):
    """The folder of checkpoints that a flag names, as an `epath.Path`.

    Args:
        text: as typed; `~` is the home folder.
        flag: for the message.

    Raises:
        UserError: nothing is given, no home folder, or characters that checkpoints cannot be found under.
    """
    folder = folder_at(text, flag)
    whole = os.fspath(absolute(folder))  # for a folder above may be called so
    found = [character for character in GLOB if character in whole]
    if found:
        raise UserError(
            f"{flag}={text}: a folder with {' '.join(found)} in its path ({whole}) cannot hold checkpoints (they are "
            f"patterns of file names); take another."
        )
    return folder


def folder_at(text, flag):
    """A folder as typed, `~` expanded, as an `epath.Path`; nothing is looked for.

    Raises:
        UserError: nothing is given, no home folder, or an address where no files are.
    """
    text = os.fspath(text)
    if not text.strip():
        raise UserError(f"{flag}= is empty; name a folder, such as {flag}=workdirs/first.")
    if "\0" in text or not _is_text(text):
        raise UserError(f"{flag}={text!r}: this name is no text in UTF-8, and results could not be written under it.")
    if max(len(part.encode()) for part in text.split("/")) > LONGEST_NAME:
        raise UserError(
            f"{flag}={text[:40]}...: no name in a path may be longer than {LONGEST_NAME} bytes; shorten it."
        )
    if is_remote(text):
        return epath.Path(text)
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise UserError(f"{flag}={text}: there is no home folder for ~ here; write the whole path.")
    return epath.Path(local(expanded))


def _is_text(name):
    try:
        return bool(name.encode())
    except UnicodeEncodeError:  # bytes that are no UTF-8 stand in it as lone surrogates
        return False


def exists(path, what):
    """Whether there is a file or folder; of one that may not be looked at `os.path.exists` says that there is none.

    Args:
        path: local or remote.
        what: cannot be read, for the message, such as "--workdir=D".

    Raises:
        UserError: a folder above it is closed to this user, or its disk or store fails.
    """
    with user_errors(f"{what} cannot be read"):
        if is_remote(path):
            return epath.Path(path).exists()
        try:
            os.stat(path)
        except ValueError:  # a name that no file can have
            return False
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
            return False
    return True


def check_writable(folder, flag):
    """Refuses a folder that results could not be written to; nothing is made yet.

    Args:
        folder: that may not exist yet.
        flag: that names it, for the message.

    Raises:
        UserError: it, or what it would be made in, is a file or not writable; there is no such bucket.
    """
    if is_remote(folder):
        make_folder(folder)  # which makes none there, and looks for the bucket
        return
    path = absolute(folder_at(folder, flag))
    while not path.exists() and path != path.parent:
        path = path.parent
    if not path.is_dir():
        raise UserError(f"{flag}={folder}: {path} is a file; name a folder.")
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{flag}={folder}: {path} cannot be written to; name another folder.")


def make_folder(path):
    """Makes a folder and those above it; in an object store, which has none, looks whether the bucket is there.

    TensorFlow's search for the parents of a missing bucket does not end.

    Args:
        path: an `epath.Path`.

    Raises:
        UserError: no such bucket, or it cannot be reached.
    """
    if not is_remote(path):
        epath.Path(path).mkdir(parents=True, exist_ok=True)
        return
    bucket = "/".join(os.fspath(path).split("/")[:3])
    with user_errors(f"{bucket} cannot be reached"):
        found = epath.Path(bucket).exists()
    if not found:
        raise UserError(f"there is no bucket {bucket} that this machine can see; check its name and your credentials.")


def own_mark():
    """Letters for the name of an unfinished file: two writers of one file at once do not meet."""
    return f"{os.getpid()}-{uuid.uuid4().hex[:8]}"


def check_space(folder, needed, use):
    """Refuses to begin what would fill a disk.

    Args:
        folder: a local one.
        needed: bytes.
        use: what they are for and what else a person can do, the end of the message.

    Raises:
        UserError: they do not fit.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{folder} has {free / 2**30:.1f} GiB free, and {needed / 2**30:.1f} GiB {use}")


def write_whole(path, text):
    """Writes a file so that a reader finds the old text or the new one, never a part.

    Args:
        path: an `epath.Path`; its folder exists.
        text: of the file, in UTF-8 in every locale; or bytes.

    Raises:
        UserError: it cannot be written, after several attempts where that may pass.
    """
    retried(lambda: write_once(path, text), path, "written")


def write_file(path, text):
    """`write_whole`, and the folder where there is none."""
    path = epath.Path(path)
    make_folder(path.parent)
    write_whole(path, text)


def write_json(path, numbers):
    """`write_file` of numbers as JSON that a person can read."""
    write_file(path, json.dumps(numbers, indent=2) + "\n")


def write_once(path, text):
    """`write_whole` in one attempt, with the errors of its storage."""
    path, content = epath.Path(path), text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
    if is_remote(path):  # an object appears when its upload is complete
        path.write_bytes(content)
        return
    draft = path.parent / f".{own_mark()}.draft"
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)  # of a full disk
