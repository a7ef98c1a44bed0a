"""Which sub-folder is which split: `train`, `Training`, `val`, `VALID`, `test_images`, `val2017`, `ILSVRC2012_img_val`.

A split is named by what it is called on disk, or by its standard name (train, validation, test). Splits and classes
side by side are refused: validation pictures would be trained on.
"""

import hashlib
import re

import numpy as np

from crate_jax.data.folder_listing import (
    entries_of,
    is_picture,
    is_there,
    joined,
    pictures_below,
    printable,
    refuse_dangling,
)
from crate_jax.errors import UserError, warn_once

SPELLINGS = {
    "train": r"train(?:ing)?(?:[ _-]?val(?:idation)?)?|trn",
    "validation": r"val(?:id(?:at(?:ion|e))?)?|eval(?:uation)?|dev(?:elopment)?|h[eo]ld[ _-]?out",
    "test": r"test(?:ing)?|tst",
    "unlabelled": r"unlabell?ed",
}
_FILLER = r"imgs?|images?|pictures?|data"
_AROUND = rf"(?:(?:ilsvrc\d*|{_FILLER})[ _.-]*)*(?:{{}})(?:[ _.-]*(?:{_FILLER}|set|split|\d{{{{4}}}}))*"
_PATTERNS = {standard: re.compile(_AROUND.format(spelling)) for standard, spelling in SPELLINGS.items()}


def standard_name(name):
    """`train`, `validation` or `test` for a known spelling of one of them, else None."""
    return next((standard for standard, pattern in _PATTERNS.items() if pattern.fullmatch(name.lower().strip())), None)


def held_out(paths):
    """True for about one path in ten, independent of the others; for at least one of two or more."""
    words = [hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:8] for path in paths]
    word_N = np.array([int.from_bytes(word, "big") for word in words], np.uint64)
    chosen_N = word_N % np.uint64(10) == 0
    if len(paths) > 1 and not chosen_N.any():
        chosen_N[np.argmin(word_N)] = True
    return chosen_N


class SplitFolders:
    """The splits of a folder.

    Args:
        folder: that the user named, local or remote.

    Raises:
        UserError: a link to nowhere.
    """

    def __init__(self, folder):
        self.folder, names, self._scanned = folder, [], {}
        for entry in entries_of(folder):
            if entry.kind == "folder":
                names.append(entry.name)
            elif entry.kind == "link to nowhere" and not is_picture(entry.name):
                refuse_dangling(folder, entry.name)
        self.standard = {name: standard_name(name) for name in names if standard_name(name)}
        self.others = [name for name in names if name not in self.standard]

    def find(self, split):
        """Where a split lies.

        Args:
            split: without a slice.

        Returns:
            The base folder, and True or False to take the held-out tenth or the rest of it, None to take everything.

        Raises:
            UserError: there is no such split, or there are two.
        """
        there, standard = self._named(split), standard_name(split)
        if standard == "train":
            return self._base(there), None if "validation" in self.standard.values() else False
        if there:
            return self._base(there), None
        if standard == "validation":
            return self._base(self._named("train")), True
        raise UserError(
            f"{printable(self.folder)} has no sub-folder {split!r}; without one there are the splits train and "
            "validation, which data.train_split and data.validation_split may name."
        )

    def train_classes(self, label):
        """The classes of the training pictures: a set of what `label` says of their paths."""
        names = [name for name, standard in self.standard.items() if standard == "train"] or [None]
        return {label(path) for name in names for path, _ in self.scan(self._base(name))[0]} - {None}

    def _base(self, name):
        return joined(self.folder, name) if name else self.folder

    def _named(self, split):
        """The sub-folder of a split: of this very name, else the one whose standard name is the split's; or None."""
        standard = standard_name(split)
        found = [name for name, one in self.standard.items() if standard and one == standard]
        same = [name for name in found if name.lower() == split.lower()]
        if len(same) < 2 and (split in found or split in self.others or is_there(joined(self.folder, split))):
            return split
        if len(found) > 1:
            raise UserError(
                f"{printable(self.folder)} has several sub-folders for the split {split}: {_listed(found)}; name one "
                "of them as data.train_split or data.validation_split, or merge them."
            )
        return found[0] if found else None

    def scan(self, base):
        """(path, size) of the pictures in a base that `find` gave, and what was left out there; listed once."""
        if base not in self._scanned:
            self._scanned[base] = pictures_below(base, self.standard if base == self.folder else ())
        return self._scanned[base]

    def check_not_mixed(self, split, train_classes):
        """Refuses class folders beside split folders, and splits one level further down.

        Args:
            split: the requested names; such a folder is a split.
            train_classes: of the training pictures.

        Raises:
            UserError: see above.
        """
        if not self.standard:
            self._check_not_below()
            return
        if "train" in self.standard.values():
            others = [name for name in self.others if name not in split]
            flat = [name for name in others if self._is_flat(name)]
            # a split of one's own (extra/cat/1.png) has classes in it, or the training pictures have none either
            classes = [name for name in others if train_classes and (name in train_classes or name in flat)]
            if flat and not train_classes:
                warn_once(
                    f"{printable(self.folder)}: {_listed(self.standard)} holds pictures in no class, and beside it lie "
                    f"{_listed(flat)}, which are not read; if all are classes, move them into one folder called train."
                )
        else:
            classes = sorted(train_classes)
        if classes:
            raise UserError(
                f"{printable(self.folder)} mixes splits ({_listed(self.standard)}) and classes ({_listed(classes)}); "
                f"move the class folders into {printable(joined(self.folder, 'train'))}, or rename what is no split."
            )

    def _check_not_below(self):
        """FOLDER/images/train and FOLDER/images/val would be read as one class, the held-out pictures with the rest."""
        below = {}
        for path, _ in self.scan(self.folder)[0]:
            if path.count("/") > 1:
                name, inner, _ = path.split("/", 2)
                below.setdefault(name, set()).add(inner)
        for name, inner in below.items():
            found = sorted(one for one in inner if standard_name(one))
            if len({standard_name(one) for one in found}) > 1:
                place = printable(joined(self.folder, name))
                raise UserError(f"{place} holds splits ({_listed(found)}); name it as data.data_dir.")

    def _is_flat(self, name):
        return any(e.kind == "file" and is_picture(e.name) for e in entries_of(joined(self.folder, name)))


def _listed(names, most=5):
    names = [printable(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
