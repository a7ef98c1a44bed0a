"""Data sets that come inside Python packages: read into memory, no download, nothing prepared on disk.

They are named as if they were TFDS data sets, and sliced with TFDS's syntax.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from crate_jax.data.embedded import digits, photographs
from crate_jax.data.example import Example
from crate_jax.data.slicing import bounds, parsed
from crate_jax.errors import UserError

EMBEDDED = {"embedded_digits": digits, "embedded_photographs": photographs}


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Examples in memory.

    Attributes:
        name, split: as requested.
        location: the packages that hold the pictures.
        images: uint8 HxWxC, each.
        labels_N: class numbers.
        class_names: tuple.
        identity_hash: of the data set's version and the slices.
    """

    name: str
    split: str
    location: str
    images: Sequence[np.ndarray]
    labels_N: np.ndarray
    class_names: tuple
    identity_hash: str

    @property
    def num_examples(self):
        return len(self.images)

    @property
    def num_classes(self):
        return len(self.class_names)

    def read(self, indices):
        """Examples with pixels."""
        return [
            Example(self.images[i], int(self.labels_N[i]), f"{self.name}/{self.split}[{i}]") for i in map(int, indices)
        ]


def open_embedded(name, split):
    """The examples of one split.

    Args:
        name: of EMBEDDED.
        split: with TFDS's slicing syntax.

    Returns:
        Embedded.

    Raises:
        UserError: no such split, or a package that holds the pictures is missing.
    """
    module, images, labels, words = EMBEDDED[name], [], [], [f"{name}/{EMBEDDED[name].VERSION}"]
    for part, first, last in parsed(split):
        if part not in module.SPLITS:
            raise UserError(
                f"data.name={name} has no split {part!r}; it has {', '.join(module.SPLITS)}, "
                "and slices of them such as train[:90%]."
            )
        part_images, part_labels_N = examples(name, part)
        start, stop = bounds(first, last, len(part_images))
        images += part_images[start:stop]
        labels.append(part_labels_N[start:stop])
        if stop > start:  # worded as the ArrayRecord files were once that held them: fingerprints of runs stay valid
            words.append(f"{name}-{part}.array_record-00000-of-00001 {start} {stop - start}")
    return Embedded(
        name=name,
        split=split,
        location=module.LOCATION,
        images=images,
        labels_N=np.concatenate(labels),
        class_names=module.CLASS_NAMES,
        identity_hash=hashlib.sha256("\n".join(words).encode()).hexdigest(),
    )


@functools.cache
def examples(name, part):
    """List of images and labels_N of a whole split."""
    images, labels = EMBEDDED[name].examples(part)
    return list(images), np.asarray(labels, np.int64)
