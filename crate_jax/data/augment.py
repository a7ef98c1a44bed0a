"""What is done to a picture before the network sees it; stateless: the caller hands in the random numbers.

`mae`     MAE's random resized crop (He et al. 2022; the boxes are drawn as torchvision draws them), mirrored or not
`affine`  small rotations, zooms and shifts, for digits and drawings
`none`    shorter side to a length, centre crop

Every function takes and returns Pillow images; resizes antialias, as the recipe's do. `size` is that of the result in
pixels, a side or (height, width); `interpolation` is "bilinear" or "bicubic".
"""

import math

from PIL import Image

from crate_jax.data.picture import RESAMPLING
from crate_jax.operators.patches import image_shape

ATTEMPTS = 10  # draws of a box
NUMBERS = 2 * ATTEMPTS + 3  # an example: area and ratio of each attempt, two for the place, one to mirror
LONGEST = 8  # sides; of a longer picture only the part that a centre crop leaves is resized, equal but for rounding
ROTATION = math.radians(10)  # the largest of `affine`, either way
ZOOM = 0.1  # relative
SHIFT = 1 / 14  # of the side


def drawn_box(uniform_K, sides, area, ratio, allowed):
    """The first of ten random boxes that is allowed: its area is uniform, its ratio log-uniform.

    Args:
        uniform_K: in [0, 1), K >= 2 * ATTEMPTS + 2: areas, ratios, the place along each side.
        sides: of the picture, pixels: two in either order, in which everything else is given, too.
        area: least and greatest, fractions of the picture.
        ratio: least and greatest, first over second side.
        allowed: a range of lengths for each side of the box.

    Returns:
        Where it begins along both sides, and where it ends; None if none is allowed.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(ATTEMPTS):
        pixels = sides[0] * sides[1] * (area[0] + (area[1] - area[0]) * uniform_K[attempt])
        drawn = math.exp(low + (high - low) * uniform_K[ATTEMPTS + attempt])
        first, second = round(math.sqrt(pixels * drawn)), round(math.sqrt(pixels / drawn))
        if first in allowed[0] and second in allowed[1]:
            begin = int(uniform_K[2 * ATTEMPTS] * (sides[0] - first + 1))
            other = int(uniform_K[2 * ATTEMPTS + 1] * (sides[1] - second + 1))
            return begin, other, begin + first, other + second
    return None


def crop_box(uniform_K, width, height, scale, ratio):
    """MAE's random crop: a `drawn_box`, else the largest central box whose ratio is allowed.

    Args:
        uniform_K: as of `drawn_box`.
        width, height: of the picture, pixels.
        scale: least and greatest area, fractions.
        ratio: least and greatest width over height.

    Returns:
        Left, top, right, bottom, as Pillow has them.
    """
    box = drawn_box(uniform_K, (width, height), scale, ratio, (range(1, width + 1), range(1, height + 1)))
    if box is not None:
        return box
    wide, tall = width, height
    if width / height < ratio[0]:
        tall = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        wide = max(1, round(height * ratio[1]))
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


def resized_crop(picture, box, size, interpolation):
    """A box (left, top, right, bottom) of a picture, resized to what the network takes."""
    height, width = image_shape(size)
    # cropped first: a resize with a box would mix in pixels from just outside it, which the recipe's does not
    return picture.crop(box).resize((width, height), RESAMPLING[interpolation])


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
