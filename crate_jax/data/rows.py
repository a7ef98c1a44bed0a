"""From indices to the rows of a batch: read, decode, augment, and what happens to examples that cannot be read.

A damaged example is replaced by the next one of those that are trained on and can be read, which is a function of the
data alone: every host, every epoch and every resumed run agrees on it. Pictures that are small once decoded are kept,
up to a fixed number of bytes, so a small data set is decoded once and a large one costs no memory.
"""

import dataclasses
import typing

import numpy as np
from PIL import Image

from crate_jax.data import augment, erasing, randaugment
from crate_jax.data.picture import MAX_PIXELS, CorruptPicture, opened, reduced, upright, upright_size
from crate_jax.data.randomness import uniforms
from crate_jax.errors import UserError
from crate_jax.operators.patches import image_shape

KEPT_BYTES = 64 * 2**20  # of decoded pictures, over the whole data set
SMALL = 96 * 96  # pixels; a larger picture is never kept
LONGEST_RUN = 1000  # damaged examples in a row before the data set is given up
PIXEL_STREAM = 1  # of the random numbers; see randomness.uniforms


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What becomes of each picture.

    Attributes:
        image_size: of the result in pixels: a side, or (height, width).
        channels: 1 or 3.
        augmentation: "mae", "affine" or "none".
        crop_scale, crop_ratio: of MAE's crop.
        flip: whether half of the pictures are mirrored (never with "none").
        interpolation: "bilinear" or "bicubic".
        shorter_side: pixels, before a centre crop.
        seed: of the run.
        randaugment: operations drawn for each picture; 0 is none.
        magnitude, magnitude_std: of those, on a scale to 10.
        erasing: chance that a rectangle becomes noise.
        mean, std: that the noise is normal with, in units of 255.
        max_pixels: of a picture as it is decoded; a larger one counts as corrupt.
    """

    image_size: int | tuple
    channels: int
    augmentation: str
    crop_scale: tuple
    crop_ratio: tuple
    flip: bool
    interpolation: str
    shorter_side: int
    seed: int
    randaugment: int = 0
    magnitude: float = 0.0
    magnitude_std: float = 0.0
    erasing: float = 0.0
    mean: tuple = ()
    std: tuple = ()
    max_pixels: int = MAX_PIXELS

    @property
    def shape(self):
        """Height, width and channels of one finished picture."""
        return (*image_shape(self.image_size), self.channels)


def recipe_of(config, image_size, channels, training=True):
    """The recipe that a config describes.

    Args:
        config: with the leaves `seed` and `data.*`.
        image_size: pixels, or (height, width).
        channels: 1 or 3.
        training: if not, nothing random happens, and the crop is the centre.

    Returns:
        A Recipe.

    Raises:
        UserError: a number of channels that pictures do not have; a shorter side below the crop.
    """
    if channels not in (1, 3):
        raise UserError(f"model.channels={channels}: pictures have 1 or 3 channels.")
    shorter = min(image_shape(image_size))
    shorter_side = config.data.resize or round(shorter * 256 / 224)
    if shorter_side < shorter:
        raise UserError(
            f"data.resize={shorter_side} is less than the image's shorter side {shorter}; choose at least that."
        )
    return Recipe(
        image_size=image_size if isinstance(image_size, int) else tuple(image_size),
        channels=channels,
        augmentation=config.data.augmentation if training else "none",
        crop_scale=tuple(config.data.crop_scale),
        crop_ratio=tuple(config.data.crop_ratio),
        flip=bool(config.data.flip),
        interpolation=config.data.interpolation,
        shorter_side=shorter_side,
        seed=config.seed,
        randaugment=config.data.randaugment if training else 0,
        magnitude=config.data.randaugment_magnitude,
        magnitude_std=config.data.randaugment_std,
        erasing=config.data.erasing if training else 0.0,
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        max_pixels=config.data.max_pixels,
    )


@dataclasses.dataclass(frozen=True)
class Damaged:
    """An example that could not be read: its index, a name that a person can find it by, and why."""

    index: int
    identity: str
    reason: str


class Opened(typing.NamedTuple):
    """A picture of which the header was read, or which was kept decoded; `reason` is why it cannot be read, or None."""

    index: int  # type: ignore[assignment]  # tuple has a method of this name, which nobody calls here
    identity: str
    label: int
    picture: Image.Image | None
    orientation: int
    is_decoded: bool
    reason: str | None


class RowReader:
    """Reads rows of one source by one recipe; any number of threads may call it.

    Attributes:
        source: a Source.
        recipe: a Recipe.
        among_N: ascending indices of the examples that take the place of damaged ones (training); None: the rows of
            those are zero and invalid (evaluation).
    """

    def __init__(self, source, recipe, among_N=None):
        self.source = source
        self.recipe = recipe
        self.among_N = among_N
        self.numbers = augment.NUMBERS + randaugment.NUMBERS * recipe.randaugment
        self.numbers += erasing.NUMBERS + 1 if recipe.erasing else 0
        self.kept = {}
        self.kept_bytes = 0

    def rows(self, index_B, epoch_B, images_BxHxWxC):
        """Fills the rows of a batch.

        Args:
            index_B, epoch_B: which examples, how often seen before.
            images_BxHxWxC: uint8, written to.

        Returns:
            label_B (int32), valid_B (bool), and a list of Damaged.

        Raises:
            UserError: too many damaged examples one after the other.
        """
        label_B, valid_B, damaged = np.full(len(index_B), -1, np.int32), np.ones(len(index_B), bool), []
        uniform_BxK = uniforms(self.recipe.seed, epoch_B, index_B, PIXEL_STREAM, self.numbers)
        entries = self._open(index_B)
        for row, box in enumerate(self._boxes(entries, uniform_BxK)):
            entry, entries[row] = entries[row], None  # one decoded picture at a time: they are larger than the cache
            label = self._fill(images_BxHxWxC[row], entry, uniform_BxK[row], box, damaged)
            if label is None and self.among_N is not None:
                label = self._replace(images_BxHxWxC[row], entry.index, uniform_BxK[row], damaged)
            if label is None:
                images_BxHxWxC[row], valid_B[row] = 0, False
            else:
                label_B[row] = label
        return label_B, valid_B, damaged

    def _replace(self, image_HxWxC, index, uniform_K, damaged):
        """Fills a row from the next example of `among_N` that can be read; returns its label."""
        place, tried = np.searchsorted(self.among_N, index), min(LONGEST_RUN, len(self.among_N))
        for further in range(1, tried):
            (entry,) = self._open(self.among_N[[(place + further) % len(self.among_N)]])
            (box,) = self._boxes([entry], uniform_K[None])
            label = self._fill(image_HxWxC, entry, uniform_K, box, damaged)
            if label is not None:
                return label
        first = damaged[-tried]
        raise UserError(
            f"{tried} examples in a row of {self.source.name} ({self.source.location}) are corrupt, "
            f"the first is {first.identity}: {first.reason}"
        )

    def _fill(self, image_HxWxC, entry, uniform_K, box, damaged):
        """Writes one row and returns its label; None if the example is damaged, which is noted."""
        try:
            picture, box = self._decoded(entry, box)
        except CorruptPicture as error:
            damaged.append(Damaged(entry.index, entry.identity, str(error)))
            return None
        recipe = self.recipe
        picture = self._augmented(picture, uniform_K, box)
        if recipe.randaugment:
            further_K = uniform_K[augment.NUMBERS :][: randaugment.NUMBERS * recipe.randaugment]
            picture = randaugment.rand_augmented(
                picture, further_K, recipe.magnitude, recipe.magnitude_std, recipe.interpolation
            )
        image_HxWxC[:] = np.asarray(picture).reshape(image_HxWxC.shape)
        if recipe.erasing:
            last_K = uniform_K[-erasing.NUMBERS - 1 :]
            erasing.erase(image_HxWxC, last_K[1:], recipe.erasing, recipe.mean, recipe.std, int(last_K[0] * 2**53))
        return entry.label

    def _open(self, index_B):
        """Reads what was not kept, and looks at its header."""
        entries = [self.kept.get(int(index)) for index in index_B]
        absent = [row for row, entry in enumerate(entries) if entry is None]
        read = self.source.read(np.asarray(index_B)[absent]) if absent else []
        for row, example in zip(absent, read, strict=True):
            picture, orientation, reason = None, 1, example.error
            if reason is None:
                try:
                    picture, orientation = opened(example.image, self.recipe.max_pixels)
                except CorruptPicture as error:
                    reason = str(error)
            entries[row] = Opened(
                int(index_B[row]), example.identity, example.label, picture, orientation, False, reason
            )
        return entries

    def _boxes(self, entries, uniform_BxK):
        """MAE's crops for pictures of these sizes; nothing for other augmentations."""
        if self.recipe.augmentation != "mae":
            return [None] * len(entries)
        sizes = [upright_size(entry.picture, entry.orientation) if entry.picture else (1, 1) for entry in entries]
        return augment.crop_boxes(uniform_BxK, *np.array(sizes).T, self.recipe.crop_scale, self.recipe.crop_ratio)

    def _decoded(self, entry, box):
        """The upright pixels of a picture, kept if they are few, and the box in them."""
        if entry.reason is not None:
            raise CorruptPicture(entry.reason)
        if entry.is_decoded:
            return entry.picture, box
        is_small = entry.picture.width * entry.picture.height <= SMALL
        if not is_small:
            box = reduced(entry.picture, box, self.recipe.image_size if box is not None else self.recipe.shorter_side)
        picture = upright(entry.picture, entry.orientation, self.recipe.channels, self.recipe.max_pixels)
        cost = 4 * picture.width * picture.height + 500  # Pillow stores RGB in four bytes
        if is_small and self.kept_bytes + cost <= KEPT_BYTES:
            self.kept_bytes += cost
            self.kept[entry.index] = entry._replace(picture=picture, orientation=1, is_decoded=True)
        return picture, box

    def _augmented(self, picture, uniform_K, box):
        """The picture as the network will see it, before normalisation."""
        recipe = self.recipe
        if recipe.augmentation == "mae":
            picture = augment.resized_crop(picture, box, recipe.image_size, recipe.interpolation)
        else:
            picture = augment.centre_crop(picture, recipe.image_size, recipe.shorter_side, recipe.interpolation)
        if recipe.augmentation == "affine":
            picture = augment.small_affine(picture, uniform_K, recipe.interpolation)
        mirror = recipe.flip and recipe.augmentation != "none" and uniform_K[augment.NUMBERS - 1] < 0.5
        return augment.mirrored(picture) if mirror else picture
