"""RandAugment (Cubuk et al. 2019) as MAE's fine-tuning has it: two operations a picture, each applied half of the time.

The fifteen operations and their ranges are those of timm's `rand-m9-mstd0.5-inc1`: a magnitude from 0 to 10 always
means "stronger", directions are drawn. Pillow does the pixels.
"""

from PIL import Image, ImageEnhance, ImageOps

from crate_jax.data.picture import RESAMPLING

STRONGEST = 10.0  # magnitude at which every operation reaches the end of its range
APPLIED = 0.5  # chance of each operation drawn
NUMBERS = 4  # random numbers an operation: which, whether, its sign, its magnitude
PAPER = (124, 116, 104)  # what comes in from outside: ImageNet's mean


def paper(picture):
    """The colour of what comes in from outside, in the picture's mode."""
    return PAPER if picture.mode == "RGB" else round(sum(PAPER) / 3)


def moved(matrix):
    """An operation that maps by `matrix` of (signed amount, width, height), from the result to its source."""

    def operation(picture, amount, sign, resampling):
        six = matrix(amount * sign, *picture.size)
        return picture.transform(picture.size, Image.Transform.AFFINE, six, resampling, fillcolor=paper(picture))

    return operation


def enhanced(kind):
    """An operation that strengthens or weakens colour, contrast, brightness or sharpness by up to 90 %."""
    return lambda picture, amount, sign, _: kind(picture).enhance(max(0.1, 1 + 0.9 * amount * sign))


def solarize_add(picture, amount, *_):
    """Dark pixels become brighter by up to 110, those of 128 and more stay."""
    added = int(110 * amount)
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return picture.point(table * len(picture.getbands()))


OPERATIONS = {  # name: function of (picture, amount in [0, 1], sign, resampling)
    "auto_contrast": lambda picture, *_: ImageOps.autocontrast(picture),
    "equalize": lambda picture, *_: ImageOps.equalize(picture),
    "invert": lambda picture, *_: ImageOps.invert(picture),
    "rotate": lambda picture, amount, sign, resampling: picture.rotate(
        30 * amount * sign, resampling, fillcolor=paper(picture)
    ),
    "posterize": lambda picture, amount, *_: ImageOps.posterize(picture, max(1, 4 - int(4 * amount))),
    "solarize": lambda picture, amount, *_: ImageOps.solarize(picture, 256 - int(256 * amount)),
    "solarize_add": solarize_add,
    "colour": enhanced(ImageEnhance.Color),
    "contrast": enhanced(ImageEnhance.Contrast),
    "brightness": enhanced(ImageEnhance.Brightness),
    "sharpness": enhanced(ImageEnhance.Sharpness),
    "shear_across": moved(lambda by, width, height: (1, 0.3 * by, 0, 0, 1, 0)),
    "shear_down": moved(lambda by, width, height: (1, 0, 0, 0.3 * by, 1, 0)),
    "shift_across": moved(lambda by, width, height: (1, 0, 0.45 * by * width, 0, 1, 0)),
    "shift_down": moved(lambda by, width, height: (1, 0, 0, 0, 1, 0.45 * by * height)),
}


def plan(uniform_K, magnitude, deviation):
    """Which operations a picture gets: a list of (name, amount in [0, 1], sign).

    Args:
        uniform_K: numbers in [0, 1), NUMBERS for each operation to draw.
        magnitude, deviation: mean and standard deviation of a normal magnitude that is clipped to 0 to STRONGEST.
    """
    from scipy.special import ndtri  # an eighth of the program's imports, of which most runs need nothing

    names, planned = list(OPERATIONS), []
    for place in range(0, len(uniform_K), NUMBERS):
        which, whether, sign, strength = (float(number) for number in uniform_K[place : place + NUMBERS])
        if whether < APPLIED:
            drawn = min(max(magnitude + deviation * ndtri(max(strength, 1e-12)), 0.0), STRONGEST)
            planned.append((names[int(which * len(names))], drawn / STRONGEST, 1 if sign < 0.5 else -1))
    return planned


def rand_augmented(picture, uniform_K, magnitude, deviation, interpolation):
    """A Pillow image ("RGB" or "L") after the operations of `plan`, of the same size."""
    for name, amount, sign in plan(uniform_K, magnitude, deviation):
        picture = OPERATIONS[name](picture, amount, sign, RESAMPLING[interpolation])
    return picture
