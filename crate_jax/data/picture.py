"""From a file's bytes to upright 8-bit pixels, whatever the format: with Pillow, whose resize is the recipe's.

Alpha lies on white, 16 bits keep their upper 8, palettes, CMYK and the rest become RGB, and the camera's orientation is
applied. One channel is Pillow's luma (ITU-R 601).
"""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class CorruptPicture(Exception):
    """These bytes are no picture, or not a whole one."""


def opened(image):
    """A picture whose header was read, and nothing else yet.

    Args:
        image: encoded bytes, or pixels HxWxC or HxW (uint8).

    Returns:
        A Pillow image and its EXIF orientation (1 is upright).

    Raises:
        CorruptPicture: no format that is known.
    """
    if not isinstance(image, bytes):
        pixels = np.asarray(image)
        return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels), 1
    if not image:
        raise CorruptPicture("the file is empty")
    try:
        picture = Image.open(io.BytesIO(image))
        exif = picture.info.get("exif") or picture.format in ("PNG", "TIFF", "WEBP")
        return picture, (picture.getexif().get(ORIENTATION, 1) if exif else 1)
    except UnidentifiedImageError:  # its own words name a Python object
        raise CorruptPicture("no picture format that is known") from None
    except Exception as error:  # Pillow's readers raise what they stumble over, not one type
        raise CorruptPicture(str(error)) from None


def upright_size(picture, orientation):
    """Width and height as a person sees them."""
    width, height = picture.size
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def reduced(picture, box, size):
    """Asks a JPEG's decoder for half, a quarter or an eighth of the picture, where a crop leaves enough pixels.

    A large win for photographs from a camera: the decoder's cosine transform shrinks while it decodes.

    Args:
        picture: Pillow image of which only the header was read.
        box: left, top, right, bottom of the crop, upright pixels.
        size: pixels that each side of the box must keep.

    Returns:
        The box in pixels of the picture as it will be decoded, to the nearest (of a picture that lies on its side, to
        within one).
    """
    left, top, right, bottom = (int(edge) for edge in box)
    factor = min(right - left, bottom - top) // size
    if picture.format != "JPEG" or factor < 2:
        return left, top, right, bottom
    before = picture.size
    picture.draft(picture.mode, (before[0] // factor, before[1] // factor))
    factor = round(before[0] / picture.size[0])  # the decoder knows powers of two only
    return tuple(round(edge / factor) for edge in (left, top, right, bottom))


def upright(picture, orientation, channels):
    """Decodes the picture.

    Args:
        picture, orientation: from `opened`.
        channels: 1 or 3.

    Returns:
        A Pillow image, mode "L" or "RGB".

    Raises:
        CorruptPicture: truncated or damaged data.
    """
    try:
        picture.load()
        picture = eight_bits(picture)
        if orientation in TURNS:
            picture = picture.transpose(TURNS[orientation])
        mode = "L" if channels == 1 else "RGB"
        return picture if picture.mode == mode else picture.convert(mode)
    except Exception as error:  # see above; a decompression bomb is refused here too
        raise CorruptPicture(str(error)) from None


def eight_bits(picture):
    """The same picture in a mode that converts to RGB without surprises."""
    if picture.mode in ("RGB", "L"):
        return picture
    if picture.mode.startswith("I"):  # 16 bits, in whichever byte order
        values = np.asarray(picture).astype(np.int64)
        return Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8))
    if picture.mode == "F":  # no convention says what 1.0 is: darkest to black, lightest to white
        values = np.nan_to_num(np.asarray(picture, np.float64))
        low, high = values.min(), values.max()
        return Image.fromarray((255 * (values - low) / max(high - low, 1e-30)).round().astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(paper, picture).convert("RGB")
    return picture


def png(pixels):
    """Encodes pixels HxW, HxWx1 or HxWx3 (uint8) as the content of a PNG file."""
    buffer = io.BytesIO()
    opened(pixels)[0].save(buffer, "PNG", compress_level=1)  # a fifth larger, three times as quick
    return buffer.getvalue()


def decoded(image, channels):
    """From bytes or pixels to an upright Pillow image of mode "L" or "RGB"; CorruptPicture if that fails."""
    return upright(*opened(image), channels)
