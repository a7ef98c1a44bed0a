"""How PyTorch lays an array out, and how it lies here. Only views and transpositions: every bit stays.

same       as it is
matrix     PyTorch multiplies by W^T, we multiply by the kernel: kernel = W^T
patches    a convolution's D x C x p x p; here p p C x D, channel fastest
row        leading axes of one
"""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way between the two.

    Attributes:
        inward: official array and our shape to our array.
        outward: our array and the official shape to the official array.
        shape: our shape and the patch to the official shape.
    """

    inward: Callable
    outward: Callable
    shape: Callable


def _patches_in(array, shape):
    return array.transpose(2, 3, 1, 0).reshape(shape)


def _patches_out(array, shape):
    width, channels, rows, columns = shape
    return array.reshape(rows, columns, channels, width).transpose(3, 2, 0, 1)


def _patches_shape(shape, patch_size):
    pixels, width = shape
    return width, pixels // patch_size**2, patch_size, patch_size


def _row_shape(shape, patch_size):
    return (1,) * (3 - len(shape)) + tuple(shape)


LAYOUTS = {
    "same": Layout(lambda a, s: a.reshape(s), lambda a, s: a.reshape(s), lambda s, p: tuple(s)),
    "matrix": Layout(lambda a, s: np.swapaxes(a, 0, 1), lambda a, s: np.swapaxes(a, 0, 1), lambda s, p: s[::-1]),
    "patches": Layout(_patches_in, _patches_out, _patches_shape),
    "row": Layout(lambda a, s: a.reshape(s), lambda a, s: a.reshape(s), _row_shape),
}
