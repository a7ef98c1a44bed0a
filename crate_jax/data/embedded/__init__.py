"""Data sets that come inside Python packages: read into memory, no download, nothing prepared on disk.

They are named as if they were TFDS data sets, and sliced with TFDS's syntax.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from crate_jax.data.embedded import digits, photographs
from crate_jax.data.example import Example, Source, bounds, parsed
from crate_jax.errors import UserError

EMBEDDED = {"embedded_digits": digits, "embedded_photographs": photographs}


@dataclasses.dataclass(frozen=True)
class InMemory:
    """Images (uint8 HxWxC) and class numbers; `split` stands in what the examples are called."""

    split: str
    images: Sequence[np.ndarray]
    labels_N: np.ndarray

    def read(self, index_B):
        """Examples with pixels."""
        return [Example(self.images[i], int(self.labels_N[i]), f"{self.split}[{i}]") for i in index_B]


def open_embedded(name, split):
    """A Source of one split of a data set in EMBEDDED, see `sources.open_source`.

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
    return Source(
        name=name,
        split=split,
        num_examples=len(images),
        class_names=module.CLASS_NAMES,
        identity_hash=hashlib.sha256("\n".join(words).encode()).hexdigest(),
        location=module.LOCATION,
        store=InMemory(f"{name}/{split}", images, np.concatenate(labels)),
    )


@functools.cache
def examples(name, part):
    """List of images and labels_N of a whole split."""
    images, labels = EMBEDDED[name].examples(part)
    return list(images), np.asarray(labels, np.int64)
