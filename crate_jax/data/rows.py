"""From indices to the rows of a batch: read, decode, augment, and what happens to examples that cannot be read.

A damaged example is replaced by the next one of those that are trained on and can be read, which is a function of the
data alone: every host, every epoch and every resumed run agrees on it. Pictures that are small once decoded are kept,
up to a fixed number of bytes, so a small data set is decoded once and a large one costs no memory.
"""

import dataclasses
import types

import numpy as np
from PIL import Image

from crate_jax.data import augment, erasing, randaugment
from crate_jax.data.picture import CorruptPicture, opened, reduced, upright, upright_size
from crate_jax.data.randomness import uniforms
from crate_jax.errors import UserError
from crate_jax.operators.patches import image_shape

KEPT_BYTES = 64 * 2**20  # of decoded pictures, over the whole data set
SMALL = 96 * 96  # pixels; a larger picture is never kept
LONGEST_RUN = 1000  # damaged examples in a row before the data set is given up
PIXEL_STREAM = 1  # of the random numbers; see randomness.uniforms


class RowReader:
    """Reads rows of one source as a config describes them; any number of threads may call it.

    `source` and `among_N` are as given, `shape` is (height, width, channels) of a row.
    """

    def __init__(self, source, config, image_size, channels, among_N=None):
        """Reads nothing yet.

        Args:
            source: a Source.
            config: with the leaves `seed` and `data.*`.
            image_size: pixels, or (height, width).
            channels: 1 or 3.
            among_N: ascending indices of the examples to train on, which take the place of damaged ones. None
                (evaluation): nothing random happens, and the rows of damaged examples are zero and invalid.

        Raises:
            UserError: a shorter side below the crop.
        """
        self.source, self.among_N = source, among_N
        self.shape = (*image_shape(image_size), channels)
        shorter = min(self.shape[:2])
        self._shorter_side = config.data.resize or round(shorter * 256 / 224)
        if self._shorter_side < shorter:
            raise UserError(
                f"data.resize={self._shorter_side} is less than the image's shorter side {shorter}; choose at least "
                "that."
            )
        self._seed, self._data = config.seed, types.SimpleNamespace(**config.data)  # which is quick to look up
        if among_N is None:
            self._data.augmentation, self._data.randaugment, self._data.erasing = "none", 0, 0.0
        self._numbers = augment.NUMBERS + randaugment.NUMBERS * self._data.randaugment
        self._numbers += erasing.NUMBERS + 1 if self._data.erasing else 0
        self.kept, self.kept_bytes = {}, 0  # index to label and upright picture

    def rows(self, index_B, epoch_B):
        """Makes the rows of a batch.

        Args:
            index_B, epoch_B: which examples, how often seen before; at the end index -1, which is padding.

        Returns:
            images_BxHxWxC (uint8), label_B (int32), valid_B (bool; without an example 0, -1 and False), and the damaged
            examples: a list of Example with `error`.

        Raises:
            UserError: too many damaged examples one after the other.
        """
        images_BxHxWxC = np.zeros((len(index_B), *self.shape), np.uint8)
        label_B, valid_B, damaged = np.full(len(index_B), -1, np.int32), np.zeros(len(index_B), bool), []
        uniform_BxK = uniforms(self._seed, epoch_B, index_B, PIXEL_STREAM, self._numbers)
        indices = index_B[index_B >= 0].tolist()
        examples = self._read(indices)
        for row, index in enumerate(indices):
            image_HxWxC, uniform_K = images_BxHxWxC[row], uniform_BxK[row].tolist()
            label = self._fill(image_HxWxC, index, examples.get(index), uniform_K, damaged)
            if label is None and self.among_N is not None:
                label = self._replace(image_HxWxC, index, uniform_K, damaged)
            if label is not None:
                label_B[row], valid_B[row] = label, True
        return images_BxHxWxC, label_B, valid_B, damaged

    def _replace(self, image_HxWxC, index, uniform_K, damaged):
        """Fills a row from the next example of `among_N` that can be read; returns its label."""
        place, tried = np.searchsorted(self.among_N, index), min(LONGEST_RUN, len(self.among_N))
        for further in range(1, tried):
            other = int(self.among_N[(place + further) % len(self.among_N)])
            label = self._fill(image_HxWxC, other, self._read([other]).get(other), uniform_K, damaged)
            if label is not None:
                return label
        first = damaged[-tried]
        raise UserError(
            f"{tried} examples in a row of {self.source.name} ({self.source.location}) are corrupt, "
            f"the first is {first.identity}: {first.error}"
        )

    def _read(self, indices):
        """Index to Example of those whose pictures are not kept."""
        absent = [index for index in indices if index not in self.kept]
        return dict(zip(absent, self.source.read(absent), strict=True)) if absent else {}

    def _fill(self, image_HxWxC, index, example, uniform_K, damaged):
        """Writes one row and returns its label; None if the example is damaged, which is noted."""
        data = self._data
        try:
            label, picture, box = self._decoded(index, example, uniform_K)
        except CorruptPicture as error:
            damaged.append(dataclasses.replace(example, image=None, error=str(error)))
            return None
        picture = self._augmented(picture, uniform_K, box)
        if data.randaugment:
            further_K = uniform_K[augment.NUMBERS :][: randaugment.NUMBERS * data.randaugment]
            picture = randaugment.rand_augmented(
                picture, further_K, data.randaugment_magnitude, data.randaugment_std, data.interpolation
            )
        image_HxWxC[:] = np.asarray(picture).reshape(image_HxWxC.shape)
        if data.erasing:
            last_K = uniform_K[-erasing.NUMBERS - 1 :]
            erasing.erase(image_HxWxC, last_K[1:], data.erasing, data.mean, data.std, int(last_K[0] * 2**53))
        return label

    def _decoded(self, index, example, uniform_K):
        """The label of an example, its upright picture, which is kept if it is small, and MAE's crop of it or None."""
        if index in self.kept:
            label, picture = self.kept[index]
            return label, picture, self._box(uniform_K, picture.size)
        if example.error is not None:
            raise CorruptPicture(example.error)
        picture, orientation = opened(example.image, self._data.max_pixels)
        box = self._box(uniform_K, upright_size(picture, orientation))
        is_small = picture.width * picture.height <= SMALL
        if not is_small:
            box = reduced(picture, box, self.shape[:2] if box is not None else self._shorter_side)
        picture = upright(picture, orientation, self.shape[2], self._data.max_pixels)
        cost = 4 * picture.width * picture.height + 500  # Pillow stores RGB in four bytes
        if is_small and self.kept_bytes + cost <= KEPT_BYTES:
            self.kept_bytes += cost
            self.kept[index] = example.label, picture
        return example.label, picture, box

    def _box(self, uniform_K, size):
        """MAE's crop of a picture of this size; None for other augmentations."""
        if self._data.augmentation != "mae":
            return None
        return augment.crop_box(uniform_K, *size, self._data.crop_scale, self._data.crop_ratio)

    def _augmented(self, picture, uniform_K, box):
        """The picture as the network will see it, before normalisation."""
        data, size = self._data, self.shape[:2]
        if data.augmentation == "mae":
            picture = augment.resized_crop(picture, box, size, data.interpolation)
        else:
            picture = augment.centre_crop(picture, size, self._shorter_side, data.interpolation)
        if data.augmentation == "affine":
            picture = augment.small_affine(picture, uniform_K, data.interpolation)
        mirror = data.flip and data.augmentation != "none" and uniform_K[augment.NUMBERS - 1] < 0.5
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else picture
