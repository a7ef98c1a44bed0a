"""One example, before anything was done to it."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Example:
    """What a source knows of one picture.

    Attributes:
        image: the encoded file as bytes, or decoded pixels HxWxC (uint8); None where its record is damaged.
        label: class number, -1 where there is none.
        identity: a file's path, or "cifar10/train[17]": what a person needs in order to find it.
        error: how its record is damaged, else None.
    """

    image: bytes | np.ndarray | None
    label: int
    identity: str
    error: str | None = None
