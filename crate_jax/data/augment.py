"""What is done to a picture before the network sees it; stateless: the caller hands in the random numbers.

`mae`     MAE's random resized crop (He et al. 2022; the boxes are drawn as torchvision draws them), mirrored or not
`affine`  small rotations, zooms and shifts, for digits and drawings
`none`    shorter side to a length, centre crop

Every function takes and returns Pillow images; resizes antialias, as the recipe's do. `size` is that of the result in
pixels, a side or (height, width); `interpolation` is "bilinear" or "bicubic".
"""

import math

import numpy as np
from PIL import Image

from crate_jax.data.picture import RESAMPLING
from crate_jax.operators.patches import image_shape

ATTEMPTS = 10  # draws of a box before the largest central one is taken
NUMBERS = 2 * ATTEMPTS + 3  # an example: area and ratio of each attempt, two for the place, one to mirror
LONGEST = 8  # sides; of a longer picture only the part that a centre crop leaves is resized, equal but for rounding
ROTATION = math.radians(10)  # the largest of `affine`, either way
ZOOM = 0.1  # relative
SHIFT = 1 / 14  # of the side


def crop_boxes(uniform_BxK, width_B, height_B, scale, ratio):
    """MAE's random crops, for a whole batch.

    A box has an area uniform in `scale` (a fraction of the picture) and a ratio log-uniform in `ratio`; the first of
    ten draws that fits is taken, else the largest central box whose ratio is allowed.

    Args:
        uniform_BxK: in [0, 1), K >= 2 * ATTEMPTS + 2.
        width_B, height_B: of the pictures, pixels.
        scale: least and greatest area, fractions.
        ratio: least and greatest width over height.

    Returns:
        box_Bx4, int64: left, top, right, bottom, as Pillow has them.
    """
    width_B, height_B = np.asarray(width_B, np.int64), np.asarray(height_B, np.int64)
    area_BxA = scale[0] + (scale[1] - scale[0]) * uniform_BxK[:, :ATTEMPTS]
    area_BxA = area_BxA * (width_B * height_B)[:, None]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratio_BxA = np.exp(low + (high - low) * uniform_BxK[:, ATTEMPTS : 2 * ATTEMPTS])
    wide_BxA = np.rint(np.sqrt(area_BxA * ratio_BxA)).astype(np.int64)
    tall_BxA = np.rint(np.sqrt(area_BxA / ratio_BxA)).astype(np.int64)
    fits_BxA = (wide_BxA > 0) & (tall_BxA > 0) & (wide_BxA <= width_B[:, None]) & (tall_BxA <= height_B[:, None])
    rows, first_B = np.arange(len(fits_BxA)), fits_BxA.argmax(1)
    wide_B, tall_B = wide_BxA[rows, first_B], tall_BxA[rows, first_B]
    left_B = (uniform_BxK[:, 2 * ATTEMPTS] * (width_B - wide_B + 1)).astype(np.int64)
    top_B = (uniform_BxK[:, 2 * ATTEMPTS + 1] * (height_B - tall_B + 1)).astype(np.int64)
    for row in np.flatnonzero(~fits_BxA.any(1)):
        wide_B[row], tall_B[row] = central_box(width_B[row], height_B[row], ratio)
        left_B[row], top_B[row] = (width_B[row] - wide_B[row]) // 2, (height_B[row] - tall_B[row]) // 2
    return np.stack([left_B, top_B, left_B + wide_B, top_B + tall_B], 1)


def central_box(width, height, ratio):
    """Width and height of the largest box in a picture whose ratio lies within `ratio`."""
    if width / height < ratio[0]:
        return width, max(1, round(width / ratio[0]))
    if width / height > ratio[1]:
        return max(1, round(height * ratio[1])), height
    return width, height


def resized_crop(picture, box, size, interpolation):
    """A box (left, top, right, bottom) of a picture, resized to what the network takes."""
    height, width = image_shape(size)
    # cropped first: a resize with a box would mix in pixels from just outside it, which the recipe's does not
    return picture.crop(tuple(int(edge) for edge in box)).resize((width, height), RESAMPLING[interpolation])


def centre_crop(picture, size, shorter_side, interpolation):
    """The middle of a resized picture; one already of the result's size is left alone.

    The picture becomes as small as a result with `shorter_side` pixels allows, at least the shorter of `size`; what is
    outside the result is cut off.
    """
    (width, height), (tall, wide) = picture.size, image_shape(size)
    if (width, height) == (wide, tall):
        return picture
    least = [shorter_side * side // min(wide, tall) for side in (wide, tall)]
    if least[0] * height >= least[1] * width:
        whole = least[0], max(least[0] * height // width, least[1])
    else:
        whole = max(least[1] * width // height, least[0]), least[1]
    left, top = round((whole[0] - wide) / 2), round((whole[1] - tall) / 2)
    if max(whole) > LONGEST * shorter_side:  # the whole would be large and nearly all of it cut off
        x, y = width / whole[0], height / whole[1]
        box = (left * x, top * y, (left + wide) * x, (top + tall) * y)
        return picture.resize((wide, tall), RESAMPLING[interpolation], box=box)
    if whole != picture.size:
        picture = picture.resize(whole, RESAMPLING[interpolation])
    return picture.crop((left, top, left + wide, top + tall))


def small_affine(picture, uniform_K, interpolation):
    """A small rotation, zoom and shift about the centre by four numbers in [0, 1); outside the picture is black."""
    angle, zoom, across, down = (2 * float(number) - 1 for number in uniform_K[:4])
    width, height = picture.size
    cosine, sine = math.cos(angle * ROTATION), math.sin(angle * ROTATION)
    inverse = math.exp(-zoom * math.log1p(ZOOM))
    a, b, d, e = cosine * inverse, sine * inverse, -sine * inverse, cosine * inverse
    # Pillow maps a pixel of the result to where its value comes from: turn and zoom about the centre, then shift
    x, y = width / 2 + across * SHIFT * width, height / 2 + down * SHIFT * height
    matrix = (a, b, width / 2 - a * x - b * y, d, e, height / 2 - d * x - e * y)
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, RESAMPLING[interpolation])
