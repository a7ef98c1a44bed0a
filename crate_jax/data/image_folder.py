"""A person's own pictures: any depth, any common format; the first sub-folder is the label.

A split named S is the sub-folder S, in any known spelling (`folder_splits`). Where there is no held-out folder,
`train` and `validation` are nine tenths and one tenth of FOLDER/train, or of FOLDER, by a hash of each path: adding
pictures moves none from one side to the other. Classes have the same numbers in every split: those of the training
pictures come first. Paths lie end to end in one array: a million of them cost what their letters cost.
"""

import dataclasses
import functools
import hashlib
import os
import unicodedata
from collections import Counter

import numpy as np

from crate_jax.data.example import Example, Source, bounds, parsed
from crate_jax.data.folder_listing import is_there, joined, printable, read_bytes
from crate_jax.data.folder_splits import SplitFolders, held_out
from crate_jax.data.listed_once import remembered
from crate_jax.data.reading import retried
from crate_jax.errors import UserError, warn_once
from crate_jax.storage import is_remote


@dataclasses.dataclass(frozen=True)
class Files:
    """Pictures as files: their paths end to end, so that a million of them cost what their letters cost.

    Attributes:
        base: folder that the paths are relative to.
        letters, ends: the paths as the file system's bytes, and where each ends.
        labels: int32, -1 for a picture that lies in no sub-folder.
    """

    base: str
    letters: bytes
    ends: np.ndarray
    labels: np.ndarray

    def path(self, index):
        """The path of one picture, relative to `base`."""
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.letters[start : int(self.ends[index])])

    def relative_paths(self):
        """The paths of all pictures, relative to `base`."""
        return [self.path(index) for index in range(len(self.ends))]

    def read(self, index_B):
        """The bytes of each picture, as they lie on disk."""
        return [self._one(index) for index in index_B]

    def _one(self, index):
        path = joined(self.base, self.path(index))
        content = retried(functools.partial(read_bytes, path), printable(path))
        return Example(content, int(self.labels[index]), printable(path))


def open_folder(folder, split):
    """The pictures of one split of a folder, with TFDS's slicing syntax.

    Args:
        folder: local or remote.
        split: such as "train", "validation[:100]", "train+test".

    Returns:
        A Source.

    Raises:
        UserError: no folder, no such split, or splits and classes side by side.
    """
    if not folder:
        raise UserError("data.name=image_folder needs data.data_dir: the folder with your pictures.")
    folder = str(folder) if is_remote(folder) else os.path.abspath(os.path.expanduser(str(folder)))
    if not is_there(folder):
        raise UserError(f"data.data_dir={printable(folder)} is not a folder; name the folder that holds your pictures.")
    folders, rows, others = remembered(("folder", folder), lambda: SplitFolders(folder)), [], {}
    parts = parsed(split)
    train_classes = folders.train_classes(label_of)
    folders.check_not_mixed([name for name, _, _ in parts], train_classes)
    names = set()
    for name, first, last in parts:
        base, tenth = folders.find(name)
        prefix = base[len(folder) + 1 :] + "/" if base != folder else ""
        found, others[base] = folders.scan(base)
        names |= classes(found)
        if tenth is not None and found:
            found = [found[row] for row in np.flatnonzero(held_out([path for path, _ in found]) == tenth)]
        start, stop = bounds(first, last, len(found))
        rows += [(prefix + path, size, label_of(path)) for path, size in found[start:stop]]
    left_out = sum(others.values(), Counter())
    if left_out:
        kinds = ", ".join(f"{count} of {ending}" for ending, count in left_out.most_common(5))
        warn_once(f"{printable(folder)}: what is no picture is left out: {kinds}")
    names = numbered(folders, train_classes, names, split)
    files = table(folder, rows, names)
    unlabelled = np.flatnonzero(files.labels < 0)
    if 0 < len(unlabelled) < len(rows):
        some = ", ".join(printable(rows[row][0]) for row in unlabelled[:3]) + (", ..." if len(unlabelled) > 3 else "")
        warn_once(
            f"{printable(folder)}: {len(unlabelled)} of {len(rows)} pictures of {split} lie in no class folder "
            f"({some}): pre-training sees them; what needs labels leaves them out."
        )
    digest = hashlib.sha256()
    for path, size, _ in rows:
        digest.update(os.fsencode(path) + b"\0%d\n" % size)
    return Source(
        name="image_folder",
        split=split,
        num_examples=len(rows),
        class_names=tuple(map(printable, names)) or None,
        identity_hash=digest.hexdigest(),
        location=printable(folder),
        store=files,
        labels=files.labels,
    )


def numbered(folders, train_classes, names, split):
    """The classes in the order of their numbers: those of the training pictures, then what other splits add.

    The latter are numbered over all splits, so that any two splits agree.
    """
    order, unknown = sorted(train_classes), names - train_classes
    if not unknown:
        return order
    everywhere = set(names)
    for name in folders.standard:
        everywhere |= classes(folders.scan(joined(folders.folder, name))[0])
    if train_classes:
        some = ", ".join(map(printable, sorted(unknown)[:5])) + (", ..." if len(unknown) > 5 else "")
        warn_once(
            f"{printable(folders.folder)}: {split} has {len(unknown)} classes that the training pictures do not have "
            f"({some}); they are numbered after those, and a classifier cannot get them right."
        )
    return order + sorted(everywhere - train_classes)


def label_of(path):
    """The first sub-folder of a relative path, or None; macOS writes its letters with accents in two parts."""
    return unicodedata.normalize("NFC", path.partition("/")[0]) if "/" in path else None


def classes(found):
    """The labels of a list of (path, size)."""
    return {label_of(path) for path, _ in found} - {None}


def table(folder, rows, names):
    """Packs a list of (path, size, label name) into Files; a label's number is its place in `names`."""
    number = {name: i for i, name in enumerate(names)}
    encoded = [os.fsencode(path) for path, _, _ in rows]
    return Files(
        base=folder,
        letters=b"".join(encoded),
        ends=np.cumsum([len(path) for path in encoded], dtype=np.int64),
        labels=np.array([number.get(label, -1) for _, _, label in rows], np.int32),
    )
