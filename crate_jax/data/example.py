"""One example, before anything was done to it."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Example:
    """What a source knows of one picture.

    Attributes:
        image: the encoded file as bytes, or decoded pixels HxWxC (uint8); None where it could not be read.
        label: class number, -1 where there is none.
        identity: a file's path, or "cifar10/train[17]": what a person needs in order to find it.
        error: why it could not be read, else None.
    """

    image: bytes | np.ndarray | None
    label: int
    identity: str
    error: str | None = None
