"""Pictures of more than 8 bits a channel, as 8-bit ones: integers of 16 and 32 bits, floating point.

One rule for all of them, by what the picture holds:

    floating point within 0 to 1     a fraction: 1 is white
    whole numbers from 0 to 65,535   the upper 8 of the fewest bits (8, 10, 12, 14 or 16) that hold the largest one
    anything else                    from the least value, black, to the greatest, white; NaN counts as the least

So 12-bit data in a 16-bit file, or 8-bit data in a 32-bit one, keep their grey levels, and so do the pictures of a set
relative to each other. TIFF's white-is-zero is turned over, and a transparent grey level is white.
"""

import io
import sys

import numpy as np
from PIL import Image

DEPTHS = (8, 10, 12, 14, 16)  # bits that sensors and scanners have
PHOTOMETRIC, BITS, SAMPLE_FORMAT = 262, 258, 339  # TIFF tags
NARROWER = 64  # no upper byte is as large: fewer than 15 of 16 bits are used
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def grey_levels(values):
    """The rule above: numbers of any shape as uint8; ValueError for complex ones."""
    values = np.asarray(values)
    if values.dtype.kind == "c":
        raise ValueError("complex numbers")
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # a signalling NaN
            values = values.astype(np.float64)
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
        values = np.clip(np.nan_to_num(values, nan=low, posinf=high, neginf=low), low, high)
        if low >= 0 and high <= 1:
            return np.rint(255 * values).astype(np.uint8)
        if (values != np.rint(values)).any():
            return _stretched(values)
    low, high = values.min(), values.max()
    if low >= 0 and high < 2**16:
        bits = next(bits for bits in DEPTHS if high < 2**bits)
        return (values.astype(np.int64) >> (bits - 8)).astype(np.uint8)
    return _stretched(values.astype(np.float64))


def _stretched(values):
    largest = np.abs(values).max()
    low, high = values.min() / largest, values.max() / largest
    return np.rint(255 * (values / largest - low) / (high - low if high > low else 1)).astype(np.uint8)


def eight_bits(picture):
    """A decoded Pillow image of one channel of more than 8 bits, as mode "L"; any other as it is."""
    if picture.mode != "F" and not picture.mode.startswith("I"):
        return picture
    values, tags = np.asarray(picture), getattr(picture, "tag_v2", {})
    if tags.get(BITS) == (32,) and tags.get(SAMPLE_FORMAT, (1,)) == (1,) and values.dtype == np.int32:
        values = values.view(np.uint32)
    grey = grey_levels(values)
    if tags.get(PHOTOMETRIC) == 0:
        grey = 255 - grey
    if "transparency" in picture.info:
        grey[values == picture.info["transparency"]] = 255
    return Image.fromarray(grey)


def is_deep(picture):
    """Whether a picture, of which only the header was read, has colours (or grey and alpha) of 16 bits a channel."""
    modes = {_raw_mode(tile) for tile in picture.tile}
    return len(modes) == 1 and modes.pop().startswith(("RGB;16", "RGBA;16", "LA;16"))


def sixteen_bit_colours(picture, image):
    """A picture for which `is_deep`, decoded to "RGB" or "RGBA"; Pillow by itself keeps the upper bytes only."""
    raw, key = _raw_mode(picture.tile[0]), picture.info.get("transparency")
    if raw.startswith("LA"):  # two channels of two bytes, read as four of one
        four = _read_as(picture, image, "RGBA")
        upper, lower = four[..., [0, 0, 0, 2]], four[..., [1, 1, 1, 3]]
    else:
        upper, lower = _read_as(picture, image, raw), None
    if key is None and upper[..., :3].max() >= NARROWER:
        return Image.fromarray(upper)
    if lower is None:
        lower = _read_as(picture, image, raw[:-1] + OTHER_ORDER[raw[-1]])
    values = upper.astype(np.uint16) << 8 | lower
    levels = grey_levels(values[..., :3])
    if values.shape[-1] == 4:
        levels = np.concatenate([levels, grey_levels(values[..., 3:])], -1)
    elif key is not None:
        levels[(values == key).all(-1)] = 255
    return Image.fromarray(levels)


def _raw_mode(tile):
    args = tile[3]
    return args if isinstance(args, str) else str(args[0]) if args else ""


def _read_as(picture, image, raw):
    """The pixels, by another idea of which of a file's bytes is which channel (Pillow's "raw mode")."""
    again = Image.open(io.BytesIO(image), formats=[picture.format])
    again.tile = [tile._replace(args=raw if isinstance(tile[3], str) else (raw, *tile[3][1:])) for tile in again.tile]
    again.load()
    return np.asarray(again)
