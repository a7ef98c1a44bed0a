"""A person's own pictures: any depth, any common format; the first sub-folder is the label.

A split is the sub-folder of that name, or one whose standard name (train, validation, test) it is in a known spelling:
`Training`, `val`, `test_images`, `val2017`, `ILSVRC2012_img_val`, or `food_train` beside `food_test`. Where there is no
held-out folder, `train` and `validation` are nine tenths and one tenth of FOLDER/train, or of FOLDER, by a hash of each
path: adding pictures moves none from one side to the other. Splits and classes side by side are refused: validation
pictures would be trained on. Of a folder that holds nothing but one of its own name, as archives unpack, that one is
meant. Classes have the same numbers in every split: those of the training pictures come first.
"""

import dataclasses
import functools
import hashlib
import os
import re
import unicodedata
from collections import Counter

import numpy as np

from crate_jax.data.example import Example, Source, bounds, parsed
from crate_jax.data.folder_listing import entries_of, is_picture, is_there, listed, pictures_below, printable, read_file
from crate_jax.data.listed_once import remembered
from crate_jax.errors import UserError, warn_once
from crate_jax.storage import is_remote
from crate_jax.storage_errors import retried

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
    """The standard name (of SPELLINGS) for a known spelling of it, else None."""
    return next((standard for standard, pattern in _PATTERNS.items() if pattern.fullmatch(name.lower().strip())), None)


_WORDS = re.compile(r"[^\W\d_]+")


def splits_among(names):
    """Folder names to `train`, `validation` or `test`: by `standard_name`, or as `food_train` is beside `food_val`.

    Names that differ in nothing but such a word are splits if one of them is the training split.
    """
    found = {name: standard_name(name) for name in names if standard_name(name)}
    alike = {}  # what is left of a name without one of its words, to what that word may stand for
    for name in names:
        for word in _WORDS.finditer(name) if name not in found else ():
            if standard := standard_name(word[0]):
                rest = f"{name[: word.start()]} {name[word.end() :]}".lower()
                alike.setdefault(re.sub(r"\d+", "0", rest), {})[name] = standard
    for group in alike.values():
        if "train" in group.values() and len(set(group.values())) > 1:
            found |= group
    return {name: found[name] for name in names if name in found}


def held_out(paths):
    """True for about one path in ten, independent of the others; for at least one of two or more."""
    words = [hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:8] for path in paths]
    word_N = np.array([int.from_bytes(word, "big") for word in words], np.uint64)
    chosen_N = word_N % np.uint64(10) == 0
    if len(paths) > 1 and not chosen_N.any():
        chosen_N[np.argmin(word_N)] = True
    return chosen_N


def label_of(path):
    """The first sub-folder of a relative path, or None; macOS writes its letters with accents in two parts."""
    return unicodedata.normalize("NFC", path.partition("/")[0]) if "/" in path else None


@dataclasses.dataclass(frozen=True)
class Files:
    """Pictures as files; their paths are one array, whose rows have the length of the longest."""

    base: str  # folder that the paths are relative to
    paths_N: np.ndarray  # bytes, as the file system has them
    labels_N: np.ndarray  # int32, -1 for a picture that lies in no sub-folder

    def relative_paths(self):
        """The paths of all pictures, relative to `base`."""
        return list(map(os.fsdecode, self.paths_N))

    def read(self, index_B):
        """Examples with the bytes of the files."""
        paths = [os.path.join(self.base, os.fsdecode(path)) for path in self.paths_N[index_B]]
        contents = [retried(functools.partial(read_file, path), printable(path)) for path in paths]
        labels = self.labels_N[index_B].tolist()
        return [Example(*one) for one in zip(contents, labels, map(printable, paths), strict=True)]


def open_folder(folder, split):
    """A Source of one split of a folder of pictures, see `sources.open_source`.

    Raises:
        UserError: no folder, no such split, or splits and classes side by side.
    """
    if not folder:
        raise UserError("data.name=image_folder needs data.data_dir: the folder with your pictures.")
    folder = str(folder).rstrip("/") if is_remote(folder) else os.path.abspath(os.path.expanduser(str(folder)))
    if not is_there(folder):
        raise UserError(f"data.data_dir={printable(folder)} is not a folder; name the folder that holds your pictures.")
    folders, rows, bases = remembered(Folders)(folder), [], []
    parts = parsed(split)
    folders.check_not_mixed([name for name, _, _ in parts])
    for name, first, last in parts:
        base, tenth = folders.find(name)
        below = os.path.join(base.removeprefix(folder).lstrip("/"), "")
        bases.append(base)
        found, _ = folders.scan(base)
        if tenth is not None:
            found = [found[row] for row in np.flatnonzero(held_out([path for path, _ in found]) == tenth)]
        start, stop = bounds(first, last, len(found))
        rows += [(below + path, size, label_of(path)) for path, size in found[start:stop]]
    left_out = sum((folders.scan(base)[1] for base in dict.fromkeys(bases)), Counter())
    if left_out:
        kinds = ", ".join(f"{count} of {ending}" for ending, count in left_out.most_common(5))
        warn_once(f"{printable(folder)}: what is no picture is left out: {kinds}")
    names = folders.numbered(bases, split)
    unlabelled = [path for path, _, label in rows if label is None]
    if 0 < len(unlabelled) < len(rows):
        warn_once(
            f"{printable(folder)}: {len(unlabelled)} of {len(rows)} pictures of {split} lie in no class folder "
            f"({listed(unlabelled, 3)}): pre-training sees them; what needs labels leaves them out."
        )
    digest = hashlib.sha256()
    for path, size, _ in rows:
        digest.update(os.fsencode(path) + b"\0%d\n" % size)
    number = {name: i for i, name in enumerate(names)}
    labels_N = np.array([number.get(label, -1) for _, _, label in rows], np.int32)
    return Source(
        name="image_folder",
        split=split,
        num_examples=len(rows),
        class_names=tuple(map(printable, names)) or None,
        identity_hash=digest.hexdigest(),
        location=printable(folder),
        store=Files(folder, np.array([os.fsencode(path) for path, _, _ in rows], np.bytes_), labels_N),
        labels=labels_N,
    )


def _same_name(name, folder):
    """Whether a folder's only content has its own name, as archives unpack: `seg_train/seg_train/CLASS`."""
    return name.lower() == os.path.basename(folder.rstrip("/")).lower()


class Folders:
    """The splits and classes in a folder that the user named, local or remote.

    Raises:
        UserError: a link to nowhere.
    """

    def __init__(self, folder):
        self.folder, names, self._scanned, entries = folder, [], {}, entries_of(folder, top=True)
        while len(entries) == 1 and entries[0].kind == "folder" and _same_name(entries[0].name, self.folder):
            self.folder = os.path.join(self.folder, entries[0].name)
            entries = entries_of(self.folder, top=True)
        places = {}
        for entry in entries:
            if entry.kind == "folder":
                names.append(entry.name)
                places.setdefault(entry.real, []).append(entry.name)
        self.standard = splits_among(names)
        self.others = [name for name in names if name not in self.standard]
        for same in places.values():
            if len({self.standard.get(name) for name in same} - {None}) > 1:
                warn_once(f"{printable(folder)}: {listed(same)} are one folder: what is measured there was trained on.")

    def find(self, split):
        """The base folder of a split; and True or False for the held-out tenth or the rest of it, None for everything.

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

    def _base(self, name):
        if not name:
            return self.folder
        base = os.path.join(self.folder, name)
        found, left_out = self.scan(base)
        while (
            found
            and _same_name(inner := found[0][0].partition("/")[0], base)
            and all(path.startswith(f"{inner}/") for path, _ in found)
        ):
            base, found = os.path.join(base, inner), [(path[len(inner) + 1 :], size) for path, size in found]
            self._scanned[base] = found, left_out
        return base

    def _named(self, split):
        """The sub-folder of a split: of this very name, else the one whose standard name is the split's; or None."""
        standard = standard_name(split)
        found = [name for name, one in self.standard.items() if standard and one == standard]
        same = [name for name in found if name.lower() == split.lower()]
        if len(same) < 2 and (split in found or split in self.others or is_there(os.path.join(self.folder, split))):
            return split
        if len(found) > 1:
            raise UserError(
                f"{printable(self.folder)} has several sub-folders for the split {split}: {listed(found)}; name one "
                "of them as data.train_split or data.validation_split, or merge them."
            )
        return found[0] if found else None

    def scan(self, base):
        """(path, size) of the pictures in a base that `find` gave, and what was left out there; listed once."""
        if base not in self._scanned:
            self._scanned[base] = pictures_below(base, self.standard if base == self.folder else ())
        return self._scanned[base]

    def _classes(self, bases):
        return {label_of(path) for base in bases for path, _ in self.scan(base)[0]} - {None}

    @functools.cached_property
    def train_classes(self):
        """The classes of the training pictures, as a set."""
        names = [name for name, standard in self.standard.items() if standard == "train"]
        return self._classes([self._base(name) for name in names or [None]])

    def numbered(self, bases, split):
        """The classes of some base folders in the order of their numbers: those of the training pictures come first.

        What other splits add is numbered over all splits, so that any two splits agree.
        """
        names = self._classes(bases)
        unknown = sorted(names - self.train_classes)
        if unknown and self.train_classes:
            warn_once(
                f"{printable(self.folder)}: {split} has {len(unknown)} classes that the training pictures do not have "
                f"({listed(unknown)}); they are numbered after those, and a classifier cannot get them right."
            )
        everywhere = names | self._classes(map(self._base, self.standard)) if unknown else set()
        return sorted(self.train_classes) + sorted(everywhere - self.train_classes)

    def check_not_mixed(self, split):
        """Raises UserError for classes beside splits (those in `split` are), and for splits one level further down."""
        if not self.standard:
            self._check_not_below()
            return
        train_classes = classes = sorted(self.train_classes)
        if "train" in self.standard.values():
            others = [name for name in self.others if name not in split]
            flat = [name for name in others if self._is_flat(name)]
            # a split of one's own (extra/cat/1.png) has classes in it, or the training pictures have none either
            classes = [name for name in others if train_classes and (name in train_classes or name in flat)]
            if flat and not train_classes:
                warn_once(
                    f"{printable(self.folder)}: {listed(self.standard)} holds pictures in no class, and beside it lie "
                    f"{listed(flat)}, which are not read; if all are classes, move them into one folder called train."
                )
        if classes:
            raise UserError(
                f"{printable(self.folder)} mixes splits ({listed(self.standard)}) and classes ({listed(classes)}); "
                f"move the class folders into {printable(os.path.join(self.folder, 'train'))}, or rename what is no "
                "split."
            )

    def _check_not_below(self):
        """FOLDER/images/train and FOLDER/images/val would be read as one class, the held-out pictures with the rest."""
        below = {}
        for path, _ in self.scan(self.folder)[0]:
            if path.count("/") > 1:
                name, inner, _ = path.split("/", 2)
                below.setdefault(name, set()).add(inner)
        for name, inner in below.items():
            found = splits_among(sorted(inner))
            if len(set(found.values())) > 1:
                place = printable(os.path.join(self.folder, name))
                raise UserError(f"{place} holds splits ({listed(found)}); name it as data.data_dir.")

    def _is_flat(self, name):
        return any(e.kind == "file" and is_picture(e.name) for e in entries_of(os.path.join(self.folder, name)))
