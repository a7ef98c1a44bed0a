"""A data set is a list of examples that is read by index; where it comes from is decided here and forgotten.

    open_source("imagenet2012", "train[:10%]", "gs://BUCKET/tfds").read([17, 4])

TFDS data sets, the embedded ones and folders of pictures give the same `Source`. No order, no decoding beyond what the
format forces, no cache.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable

import numpy as np

from crate_jax.data import image_folder, tfds_records
from crate_jax.data.embedded import EMBEDDED, open_embedded
from crate_jax.data.example import Example
from crate_jax.data.listed_once import remembered
from crate_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples by index.

    Attributes:
        name, split: as requested.
        num_examples: N.
        num_classes: None if there are no labels (they are -1 then).
        class_names: a tuple of strings, or None.
        fingerprint: hexadecimal digits; equal on two hosts only if their indices name the same examples.
        location: where it was found, for people.
        read: indices in [0, N) -> list of Example; a damaged record has `error` set; a file that cannot be read raises
            UserError.
        labels: label_N (int32, -1 where there is none) where they are known before reading, else None.
    """

    name: str
    split: str
    num_examples: int
    num_classes: int | None
    class_names: tuple | None
    fingerprint: str
    location: str
    read: Callable[[np.ndarray], list[Example]]
    labels: np.ndarray | None = None

    @property
    def labelled(self):
        """Indices of the examples with a label, where some are known to have none; None stands for all."""
        if self.labels is None or self.labels.min() >= 0 or self.labels.max() < 0:
            return None
        return np.flatnonzero(self.labels >= 0)


def open_source(name, split, data_dir=None):
    """Finds a data set on disk or in a package; nothing is downloaded, nothing is written.

    Args:
        name: "image_folder", an embedded data set, or any TFDS data set ("name", "name/config", "name/config:version").
        split: of the data set, with TFDS's slicing syntax ("train[:90%]", "train[10:20]", "train+test").
        data_dir: the folder of pictures, or TFDS's root folder, local or `gs://`; None is TFDS's own place. Embedded
            data sets need none.

    Returns:
        A Source.

    Raises:
        UserError: it is missing (with the command that prepares it), empty, or holds no images.
    """
    return remembered(("source", name, split, data_dir), lambda: _opened(name, split, data_dir))


def _opened(name, split, data_dir):
    if name == "image_folder":
        index = image_folder.open_folder(data_dir, split)
    elif name in EMBEDDED:
        index = open_embedded(name, split)
    else:
        index = tfds_records.open_records(name, split, data_dir)
    if not index.num_examples:
        raise UserError(f"data.name={name} has no examples in split {split!r} (looked in {index.location}).")
    words = (name, str(index.num_examples), str(index.class_names), index.identity_hash)
    return Source(
        name=name,
        split=split,
        num_examples=index.num_examples,
        num_classes=index.num_classes,
        class_names=index.class_names,
        fingerprint=hashlib.sha256("\0".join(words).encode()).hexdigest()[:16],
        location=index.location,
        read=functools.partial(read_checked, index),
        labels=getattr(index, "labels", None),
    )


def read_checked(index, indices):
    """Reads, after making sure that no index wraps around or runs past the end.

    Args:
        index: what `open_folder` or `open_records` returned.
        indices: integers in [0, N).

    Returns:
        A list of Example, in that order.
    """
    indices = np.asarray(indices, np.int64)
    if indices.size and (indices.min() < 0 or indices.max() >= index.num_examples):
        raise IndexError(f"example {indices.max()} of {index.num_examples}")
    return index.read(indices)
