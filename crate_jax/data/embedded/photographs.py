"""Which of 17 photographs does this crop come from? Real pictures from inside scikit-image and scikit-learn.

Training crops lie in the left 70 % of each photograph, test crops strictly in the rest, so no pixel is shared; both
come in all sizes from a detail to the height of the photograph's right part. `whole` holds the photographs themselves,
for figures. Grayscale pictures are RGB with three equal channels. Origin and licence of each: LICENSES.md.
"""

import numpy as np
from PIL import Image

from crate_jax.data.embedded.packages import file_in

PHOTOGRAPHS = {  # label: package that holds it, file
    "astronaut": ("skimage", "data/astronaut.png"),
    "brick": ("skimage", "data/brick.png"),
    "camera": ("skimage", "data/camera.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg"),
    "moon": ("skimage", "data/moon.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "text": ("skimage", "data/text.png"),
    "tissue": ("skimage", "data/ihc.png"),
}
VERSION = "1.1.0"
LOCATION = "the packages scikit-image and scikit-learn"
SPLITS = ("train", "test", "whole")
CLASS_NAMES = tuple(PHOTOGRAPHS)
CROP = 48  # pixels that a crop is stored with, so that a random crop to 32 has something to vary
SMALLEST = 64  # pixels of the photograph that a crop shows at least
# of each photograph; few to train on, for with hundreds a probe of random features does nearly as well as any
CROPS = {"train": 40, "test": 60}
TRAIN_WIDTH = 0.7  # of each photograph, from the left
WHOLE = 512  # pixels: the longest that the shorter side of a whole photograph is stored with


def photograph(label):
    """One photograph, HxWx3 uint8."""
    needs = (
        "data.name=embedded_photographs needs the pictures of two packages; run pip install scikit-image scikit-learn."
    )
    with Image.open(file_in(*PHOTOGRAPHS[label], needs)) as picture:
        return np.asarray(picture.convert("RGB"))


def crop_boxes(label, split, height, width):
    """Which squares of a height x width photograph are its crops: the same ones always.

    Returns:
        Top, left and side of each crop, Nx3: sides from SMALLEST up to what fits, evenly in their logarithm; those to
        train on from left to right.
    """
    border = int(width * TRAIN_WIDTH)
    first, end = (0, border) if split == "train" else (border, width)
    # RandomState's stream is frozen permanently, default_rng's is not
    random = np.random.RandomState(2 * list(PHOTOGRAPHS).index(label) + (split == "test"))
    largest = min(height, width - border)  # the same range of scales in both splits
    sides = np.exp(random.uniform(np.log(min(SMALLEST, largest)), np.log(largest + 1), CROPS[split])).astype(int)
    tops = (random.uniform(size=CROPS[split]) * (height - sides + 1)).astype(int)
    lefts = first + (random.uniform(size=CROPS[split]) * (end - first - sides + 1)).astype(int)
    boxes = np.stack([tops, lefts, sides], 1)
    if split == "train":
        # Left to right: holding out neighbours in this order, as the probe does to choose by, holds out a strip
        # of each photograph. What is chosen there does well beside what was trained on, as it must on the test's strip.
        boxes = boxes[np.argsort(lefts + sides / 2, kind="stable")]
    return boxes


def crop(pixels_HxWx3, box):
    """One crop, resized to CROP x CROP."""
    top, left, side = map(int, box)
    picture = Image.fromarray(pixels_HxWx3[top : top + side, left : left + side])
    return np.asarray(picture.resize((CROP, CROP), Image.Resampling.BICUBIC))


def whole(label):
    """One photograph with a shorter side of at most WHOLE pixels."""
    picture = Image.fromarray(photograph(label))
    scale = WHOLE / min(picture.size)
    if scale < 1:
        picture = picture.resize([round(side * scale) for side in picture.size], Image.Resampling.BICUBIC)
    return np.asarray(picture)


def examples(split):
    """A list of images HxWx3 (uint8) and labels_N of a split, one of each photograph in turn: the first show all."""
    if split == "whole":
        return [whole(label) for label in PHOTOGRAPHS], np.arange(len(PHOTOGRAPHS))
    pictures = [photograph(label) for label in PHOTOGRAPHS]
    boxes = [crop_boxes(name, split, *p.shape[:2]) for name, p in zip(PHOTOGRAPHS, pictures, strict=True)]
    turns = range(CROPS[split])
    images = [crop(pixels, boxes[label][turn]) for turn in turns for label, pixels in enumerate(pictures)]
    return images, np.tile(np.arange(len(pictures)), len(turns))
