"""From a file's bytes to upright 8-bit pixels, for any format: with Pillow, whose resize is the recipe's.

Orientation is that of `ImageOps.exif_transpose`. Whatever is transparent (alpha, palette, a colour key) lies on white;
palettes, CMYK, Lab and the rest become RGB. One channel is Pillow's luma (ITU-R 601). Wider ranges: see `wide_range`.
"""

import io
import logging
import struct
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from crate_jax.data.wide_range import eight_bits, grey_levels, is_deep, sixteen_bit_colours
from crate_jax.errors import first_line
from crate_jax.operators.patches import image_shape

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
MAX_PIXELS = 2**29  # decoded; four bytes each, while Pillow's own limit refuses panoramas above a third of this
LARGE = 2**25  # pixels; above, a JPEG is decoded at a fraction of its size wherever the result is small
FEWEST = 4  # pixels of a reduced picture for each of the result, along a side
GREY_KEYS = {1: 255, 2: 85, 4: 17}  # PNG: bits to what a grey level becomes when it is spread over 8

# `max_pixels` takes the place of Pillow's limit, which is one number for the whole process
Image.MAX_IMAGE_PIXELS = None
# of broken EXIF data and the like; what keeps a picture from being decoded is raised
warnings.filterwarnings("ignore", module=r"PIL\.")


class CorruptPicture(Exception):
    """These bytes are no picture, or not a whole one."""


def opened(image, max_pixels=MAX_PIXELS):
    """A picture whose header was read, and as a rule nothing else yet.

    Args:
        image: encoded bytes, pixels HxWxC or HxW (uint8), or a Pillow image.
        max_pixels: a larger picture counts as corrupt; see `upright`.

    Returns:
        A Pillow image and its EXIF orientation (1 is upright).

    Raises:
        CorruptPicture: no format that is known.
    """
    if isinstance(image, Image.Image):
        return image, _orientation(image)
    if not isinstance(image, bytes):
        pixels = np.asarray(image)
        return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels), 1
    if not image:
        raise CorruptPicture("the file is empty")
    try:
        return _opened(image, max_pixels)
    except (MemoryError, CorruptPicture):
        raise
    except UnidentifiedImageError:  # its own words name a Python object
        if image[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _unusual_tiff(image, max_pixels)
        reason = "no picture format that is known"
    except Exception as error:  # Pillow's readers raise what they stumble over, not one type
        reason = first_line(error)
    pixels_alone = _without_extras(image)
    if pixels_alone is None:
        raise CorruptPicture(reason)
    return opened(pixels_alone, max_pixels)


def _opened(image, max_pixels):
    picture = Image.open(io.BytesIO(image))
    if picture.format == "PNG":
        _spread_grey_key(picture, image)
        # Pillow reads what follows the pixels when it decodes them, and a large picture is decoded as late as possible
        kinds = [kind for kind, _, _ in _chunks(image)]
        if b"IDAT" in kinds and any(kind[:1].islower() for kind in kinds[kinds.index(b"IDAT") :]):
            _check_size(picture.size, max_pixels)
            picture.load()
    deep = None
    if is_deep(picture):
        _check_size(picture.size, max_pixels)
        deep = sixteen_bit_colours(picture, image)
    return deep or picture, _orientation(picture)


def _orientation(picture):
    """The EXIF or XMP orientation, 1 to 8; broken EXIF data are none."""
    try:
        if picture.format == "TIFF":  # Pillow turns these itself, but knows the final size beforehand by the tag only
            if b"tiff:Orientation" in bytes(picture.info.get("xmp") or b""):
                picture.load()
            return 1
        turned = Image.Image.getexif(picture).get(ORIENTATION, 1)  # a PNG's own method decodes the pixels
        return turned if turned in TURNS else 1
    except MemoryError:
        raise
    except Exception:  # see `opened`
        return 1


def _unusual_tiff(image, max_pixels):
    """A TIFF that Pillow does not know, such as one of 64-bit numbers, decoded; otherwise as `opened`."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it stumbles over is raised as well
    try:
        with tifffile.TiffFile(io.BytesIO(image)) as file:
            page = file.pages[0]
            _check_size(page.shape[1::-1], max_pixels)
            values = page.asarray()
            turned = page.tags[ORIENTATION].value if ORIENTATION in page.tags else 1
        if values.ndim != 2 and (values.ndim != 3 or values.shape[-1] not in (1, 3, 4)):
            raise ValueError(f"an array of shape {values.shape}")
        levels = grey_levels(values if values.ndim == 2 else values[..., :3])
        return opened(levels)[0], turned if turned in TURNS else 1
    except (MemoryError, CorruptPicture):
        raise
    except Exception as error:  # see `opened`
        raise CorruptPicture(f"no picture format that is known ({first_line(error)})") from None


def _chunks(png):
    """(kind, start, end) of the chunks of a PNG file, as far as it goes."""
    place = 8
    while place + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        yield kind, place, place + 12 + length
        place += 12 + length


def _without_extras(png):
    """A PNG file without text, profiles and EXIF, which may be broken or too large for Pillow; None if it has none."""
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    kept = [png[start:end] for kind, start, end in _chunks(png) if kind[:1].isupper() or kind == b"tRNS"]
    alone = png[:8] + b"".join(kept)
    return alone if len(alone) < len(png) else None


def _spread_grey_key(picture, png):
    """A transparent grey level of less than 8 bits is stored as in the file, and compared with what became of it."""
    key = picture.info.get("transparency")
    if isinstance(key, int) and picture.mode in ("1", "L"):
        picture.info["transparency"] = min(key * GREY_KEYS.get(png[24], 1), 255)


def upright_size(picture, orientation):
    """Width and height as a person sees them."""
    width, height = picture.size
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def reduced(picture, box, size):
    """Asks a JPEG's decoder for half, a quarter or an eighth of the picture, where a crop leaves enough pixels.

    A large win for photographs from a camera: the decoder's cosine transform shrinks while it decodes.

    Args:
        picture: Pillow image of which only the header was read.
        box: left, top, right, bottom of the crop, upright pixels; None: all of it, and only a huge one is reduced.
        size: pixels that each side of the box must keep, or (height, width).

    Returns:
        The box in pixels of the picture as it will be decoded, to the nearest (of a picture that lies on its side, to
        within one); None for None.
    """
    before = picture.size
    left, top, right, bottom = map(int, box if box is not None else (0, 0, *before))
    height, width = (side if box is not None else FEWEST * side for side in image_shape(size))
    factor = min((right - left) // width, (bottom - top) // height)
    if picture.format in ("JPEG", "MPO") and factor >= 2 and (box is not None or before[0] * before[1] > LARGE):
        picture.draft(picture.mode, (before[0] // factor, before[1] // factor))
    factor = round(before[0] / picture.size[0])  # the decoder knows powers of two only
    return None if box is None else tuple(round(edge / factor) for edge in (left, top, right, bottom))


def _check_size(size, max_pixels):
    """Raises CorruptPicture where the pixels to decode (width, height) are more than `max_pixels`."""
    width, height = size
    if width * height > max_pixels:
        raise CorruptPicture(f"{width} x {height} pixels are more than data.max_pixels={max_pixels}")


def upright(picture, orientation, channels, max_pixels=MAX_PIXELS):
    """Decodes what `opened` returned, to a Pillow image of mode "L" (one channel) or "RGB".

    Raises:
        CorruptPicture: truncated or damaged data, or more than `max_pixels` to decode.
    """
    _check_size(picture.size, max_pixels)
    try:
        picture.load()
        picture = _on_white(eight_bits(picture))
        if orientation in TURNS:
            picture = picture.transpose(TURNS[orientation])
        mode = "L" if channels == 1 else "RGB"
        return picture if picture.mode == mode else picture.convert(mode)
    except MemoryError:
        raise
    except Exception as error:  # see `opened`
        raise CorruptPicture(first_line(error)) from None


def _on_white(picture):
    """The same picture with nothing transparent, in a mode that converts to RGB and L."""
    if picture.mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.applyTransform(picture, ImageCms.buildTransform(*profiles, "LAB", "RGB"))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(paper, picture).convert("RGB")
    return picture


def png(pixels):
    """Encodes pixels HxW, HxWx1 or HxWx3 (uint8) as the content of a PNG file."""
    buffer = io.BytesIO()
    opened(pixels)[0].save(buffer, "PNG", compress_level=1)  # a fifth larger, three times as quick
    return buffer.getvalue()


def decoded(image, channels, max_pixels=MAX_PIXELS):
    """From bytes or pixels to an upright Pillow image of mode "L" or "RGB"; CorruptPicture if that fails."""
    return upright(*opened(image, max_pixels), channels, max_pixels)
