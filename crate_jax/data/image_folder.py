"""A person's own pictures: any depth, any common format; the first sub-folder is the label.

A split named S is the sub-folder S where there is one. Where there is no held-out folder (`validation`, `val` or
`valid`), `train` and `validation` are nine tenths and one tenth of FOLDER/train, or of FOLDER, by a hash of each path:
adding pictures moves none from one side to the other. Paths lie end to end in one array: a million of them cost what
their letters cost.
"""

import dataclasses
import functools
import hashlib
import logging
import os
import pathlib
from collections import Counter

import numpy as np

from crate_jax.data.example import Example
from crate_jax.data.slicing import bounds, parsed
from crate_jax.errors import UserError

PHOTOGRAPHS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".jp2", ".tif", ".tiff")
PICTURES = frozenset((*PHOTOGRAPHS, ".gif", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"))
HELD_OUT = ("validation", "val", "valid")
RESERVED = ("train", "test", *HELD_OUT)


@dataclasses.dataclass(frozen=True)
class Folder:
    """The pictures of one split: `read` gives their bytes.

    Attributes:
        base: folder that the paths are relative to.
        letters, ends: the paths in UTF-8 end to end, and where each ends.
        labels: int32, -1 for a picture that lies in no sub-folder.
        class_names: tuple, or None if no picture lies in a sub-folder.
        identity_hash: of every path and size.
    """

    base: str
    letters: bytes
    ends: np.ndarray
    labels: np.ndarray
    class_names: tuple | None
    identity_hash: str

    @property
    def num_examples(self):
        return len(self.ends)

    @property
    def num_classes(self):
        return len(self.class_names) if self.class_names else None

    @property
    def location(self):
        return self.base

    def path(self, index):
        """The path of one picture, relative to `base`."""
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.letters[start : int(self.ends[index])])

    def read(self, indices):
        """The bytes of each picture, as they lie on disk."""
        return [self._one(int(index)) for index in indices]

    def _one(self, index):
        identity, label = joined(self.base, self.path(index)), int(self.labels[index])
        try:
            return Example(read_bytes(identity), label, identity)
        except OSError as error:
            return Example(None, label, identity, str(error))


def is_remote(path):
    """True for gs:// and the like."""
    return "://" in str(path)


def joined(base, path):
    """A path below `base`, local or remote."""
    return f"{base.rstrip('/')}/{path}"


def read_bytes(path):
    """A file's content; remote ones through epath."""
    if is_remote(path):
        from etils import epath

        return epath.Path(path).read_bytes()
    with open(path, "rb") as file:
        return file.read()


def pictures_below(base, skip=()):
    """Every picture in a folder, at any depth.

    Args:
        base: a folder.
        skip: names of sub-folders of `base` to leave out.

    Returns:
        A sorted list of (path relative to base with forward slashes, size in bytes), and a Counter of the endings of
        the files left out. Hidden files and folders are left out silently; links are followed, each folder once.
    """
    found, others, seen, pending = [], Counter(), {os.path.realpath(base)}, [""]
    while pending:
        below = pending.pop()
        # sorted: which of two links to one folder is followed must not depend on the file system
        for name, is_folder, size, real in sorted(listed(base, below), key=lambda entry: entry[0]):
            path = f"{below}{name}"
            if name.startswith(".") or name == "__MACOSX" or (not below and is_folder and name in skip):
                continue
            if is_folder:
                if real not in seen:
                    seen.add(real)
                    pending.append(path + "/")
            elif pathlib.PurePosixPath(name).suffix.lower() in PICTURES:
                found.append((path, size))
            else:
                others[pathlib.PurePosixPath(name).suffix.lower() or name] += 1
    return sorted(found), others


def listed(base, below):
    """Name, whether it is a folder, size, and the true place (folders only) of everything in one folder."""
    if is_remote(base):
        from etils import epath

        for entry in epath.Path(joined(base, below)).iterdir():
            is_folder = entry.is_dir()
            yield entry.name, is_folder, 0 if is_folder else entry.stat().length, str(entry)
        return
    with os.scandir(os.path.join(base, below)) as entries:
        for entry in entries:
            try:
                if entry.is_dir():
                    yield entry.name, True, 0, os.path.realpath(entry)
                else:
                    yield entry.name, False, entry.stat().st_size, None
            except OSError:  # a link to nowhere: an example that cannot be read, and is counted as such
                yield entry.name, False, 0, None


def is_there(path):
    """Whether a folder is there."""
    if is_remote(path):
        from etils import epath

        return epath.Path(path).is_dir()
    return os.path.isdir(path)


def held_out(paths):
    """True for about one path in ten, whatever the others are; for at least one of two or more."""
    words = [hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:8] for path in paths]
    word_N = np.array([int.from_bytes(word, "big") for word in words], np.uint64)
    chosen_N = word_N % np.uint64(10) == 0
    if len(paths) > 1 and not chosen_N.any():
        chosen_N[np.argmin(word_N)] = True
    return chosen_N


def split_folder(folder, split):
    """Where a split lies.

    Args:
        folder: that the user named.
        split: without a slice.

    Returns:
        The base folder, the sub-folders of it to leave out, and True or False to take the held-out tenth or the rest
        of it, None to take everything.

    Raises:
        UserError: there is no such split.
    """
    there = [name for name in HELD_OUT if is_there(joined(folder, name))]
    base = joined(folder, "train") if is_there(joined(folder, "train")) else folder
    skip = RESERVED if base == folder else ()
    if split == "train":
        return base, skip, None if there else False
    if is_there(joined(folder, split)):
        return joined(folder, split), (), None
    if split in HELD_OUT:
        return (joined(folder, there[0]), (), None) if there else (base, skip, True)
    raise UserError(
        f"{folder} has no sub-folder {split!r}; without one there are the splits train and validation, "
        "which data.train_split and data.validation_split may name."
    )


def open_folder(folder, split):
    """The pictures of one split of a folder, with TFDS's slicing syntax.

    Args:
        folder: local or remote.
        split: such as "train", "validation[:100]", "train+test".

    Returns:
        A Folder.

    Raises:
        UserError: no folder, no such split.
    """
    if not folder:
        raise UserError("data.name=image_folder needs data.data_dir: the folder with your pictures.")
    folder = str(folder) if is_remote(folder) else os.path.abspath(os.path.expanduser(str(folder)))
    if not is_there(folder):
        raise UserError(f"data.data_dir={folder} is not a folder; name the folder that holds your pictures.")
    rows, names, others = [], set(), {}
    scan = functools.cache(pictures_below)
    for name, first, last in parsed(split):
        base, skip, tenth = split_folder(folder, name)
        prefix = base[len(folder) + 1 :] + "/" if base != folder else ""
        found, others[base] = scan(base, skip)
        if name != "train" and tenth is None:  # numbers of classes are those of the training pictures
            names.update(classes(scan(*split_folder(folder, "train")[:2])[0]))
        names.update(classes(found))
        if tenth is not None and found:
            found = [found[row] for row in np.flatnonzero(held_out([path for path, _ in found]) == tenth)]
        start, stop = bounds(first, last, len(found))
        rows += [(prefix + path, size, label_of(path)) for path, size in found[start:stop]]
    left_out = sum(others.values(), Counter())
    if left_out:
        kinds = ", ".join(f"{count} of {ending}" for ending, count in left_out.most_common(5))
        logging.warning("%s: files that are no pictures by their name are left out: %s", folder, kinds)
    return table(folder, rows, sorted(names))


def label_of(path):
    """The first sub-folder of a relative path, or None."""
    return path.partition("/")[0] if "/" in path else None


def classes(found):
    """The labels of a list of (path, size)."""
    return {label_of(path) for path, _ in found} - {None}


def table(folder, rows, names):
    """Packs a list of (path, size, label name) into a Folder."""
    number = {name: i for i, name in enumerate(names)}
    encoded = [os.fsencode(path) for path, _, _ in rows]
    digest = hashlib.sha256()
    for path, (_, size, _) in zip(encoded, rows, strict=True):
        digest.update(path + b"\0%d\n" % size)
    return Folder(
        base=folder,
        letters=b"".join(encoded),
        ends=np.cumsum([len(path) for path in encoded], dtype=np.int64),
        labels=np.array([number.get(label, -1) for _, _, label in rows], np.int32),
        class_names=tuple(names) or None,
        identity_hash=digest.hexdigest(),
    )
