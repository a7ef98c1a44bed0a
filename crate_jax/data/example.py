"""What every data set is once it is opened: examples by index; and TFDS's slicing syntax for sets it does not know."""

import dataclasses
import hashlib
import re
from typing import Any

import numpy as np

from crate_jax.errors import UserError

SLICE = re.compile(r"^(?P<split>(?!\.+(?:\[|$))[\w.\-]+)(\[(?P<first>-?[0-9]{1,18}%?)?:(?P<last>-?[0-9]{1,18}%?)?\])?$")


@dataclasses.dataclass(frozen=True)
class Example:
    """What a source knows of one picture."""

    image: bytes | np.ndarray | None  # the encoded file, or pixels HxWxC (uint8); None where its record is damaged
    label: int  # class number, -1 where there is none
    identity: str  # a file's path, or "cifar10/train[17]": what a person needs in order to find it
    error: str | None = None  # how its record is damaged


@dataclasses.dataclass(frozen=True)
class Source:
    """The examples of a split by index: no order, no decoding beyond what the format forces, no cache."""

    name: str
    split: str
    num_examples: int
    class_names: tuple | None  # None if there are no labels (they are -1 then)
    identity_hash: str  # of what the indices name
    location: str  # where it was found, for people
    store: Any  # `store.read(index_B)` gives the examples; one of files has `base` and `relative_paths()` for `staging`
    labels: np.ndarray | None = None  # label_N (int32, -1 where there is none) where known before reading

    @property
    def num_classes(self):
        """None if there are no labels."""
        return len(self.class_names) if self.class_names else None

    @property
    def fingerprint(self):
        """Hexadecimal digits; equal on two hosts only if their indices name the same examples."""
        words = (self.name, str(self.num_examples), str(self.class_names), self.identity_hash)
        return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]

    @property
    def labelled(self):
        """Indices of the examples with a label, where some are known to have none; None stands for all."""
        if self.labels is None or self.labels.min() >= 0 or self.labels.max() < 0:
            return None
        return np.flatnonzero(self.labels >= 0)

    def read(self, indices):
        """The examples at these indices, in their order; a damaged record has `error` set.

        Raises:
            IndexError: an index out of range.
            UserError: a file that cannot be read.
        """
        index_B = np.asarray(indices, np.int64)
        if index_B.size and (index_B.min() < 0 or index_B.max() >= self.num_examples):
            raise IndexError(f"example {index_B.max()} of {self.num_examples}")
        return self.store.read(index_B)


def parsed(split):
    """The parts of a split such as "train[:90%]+test": a list of (name, first, last), see `bounds`.

    Raises:
        UserError: it is not of this form.
    """
    parts = [SLICE.match(part.strip()) for part in split.split("+")]
    if None in parts:
        raise UserError(f"split {split!r} is not understood; write it like train, train[:90%] or train[10:20]+test.")
    return [(part["split"], part["first"], part["last"]) for part in parts]


def bounds(first, last, count):
    """The range that two bounds name, clipped to what there is.

    Args:
        first, last: strings such as "10%", "-5", or None; as TFDS has it, "%" of one is the unit of both.
        count: examples of the whole split.

    Returns:
        start, stop with 0 <= start <= stop <= count; percentages are rounded to the nearest example.

    Raises:
        UserError: they are the wrong way round.
    """
    is_percent = any(bound is not None and bound.endswith("%") for bound in (first, last))

    def number(bound):
        if bound is None:
            return None
        return round(int(bound.rstrip("%")) * count / 100) if is_percent else int(bound)

    start, stop, _ = slice(number(first), number(last)).indices(count)
    if start > stop:
        raise UserError(
            f"the slice [{first or ''}:{last or ''}] of {count} examples ends before it begins; exchange its bounds."
        )
    return start, stop
