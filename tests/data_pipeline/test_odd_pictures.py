"""Rare pictures that are right: orientation everywhere, transparency of any kind, wide ranges, odd chunks and sizes."""

import io
import struct
import zlib

import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image, ImageOps, PngImagePlugin

from crate_jax.data import augment
from crate_jax.data.picture import CorruptPicture, decoded, opened, reduced, upright
from crate_jax.data.wide_range import grey_levels

ASTRONAUT = Image.fromarray(skimage.data.astronaut()).resize((60, 40))
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(rows, size, bits, colour, *extra):
    """A PNG file from its bytes: rows without filters, chunks before the pixels."""
    raw = b"".join(b"\0" + row for row in rows)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "MPO"])
@pytest.mark.parametrize("tag", ["exif", "xmp"])
def test_orientation_is_pillows_for_every_format(kind, tag):
    for orientation in range(1, 9) if kind == "TIFF" else range(10):
        exif, options = Image.Exif(), {}
        exif[0x0112] = orientation
        if tag == "exif":
            options["exif"] = exif
        elif kind == "PNG":
            options["pnginfo"] = PngImagePlugin.PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", (XMP % orientation).decode())
        elif kind == "TIFF":
            options["tiffinfo"] = {700: XMP % orientation}
        else:
            options["xmp"] = XMP % orientation
        if kind == "TIFF":
            options["compression"] = ("raw", "tiff_lzw")[orientation % 2]
        data = encoded(ASTRONAUT, kind, **options)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        picture, turned = opened(data)
        before = (picture.size[1], picture.size[0]) if turned > 4 else picture.size
        assert before == expected.size, "crops are drawn before the pixels are decoded"
        assert np.array_equal(decoded(data, 3), expected.convert("RGB")), (kind, tag, orientation)


def test_orientation_after_the_pixels_of_a_png():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(ASTRONAUT, "PNG")
    data = data[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + data[-12:]
    assert decoded(data, 3).size == (40, 60)


GREYS = [0, 85, 170, 255]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_level_is_white(bits):
    top = 2**bits - 1
    levels = [0, top] if bits == 1 else [top * number // 3 for number in range(4)]
    rows = ["".join(f"{level:0{bits}b}" for level in levels).ljust(64, "0")] * 2
    rows = [int(row, 2).to_bytes(8, "big") for row in rows]
    size = (len(levels), 2)
    plain = np.asarray(decoded(png_of([row[: -(-size[0] * bits // 8)] for row in rows], size, bits, 0), 1))
    for number, level in enumerate(levels):
        key = chunk(b"tRNS", struct.pack(">H", level))
        got = np.asarray(decoded(png_of([row[: -(-size[0] * bits // 8)] for row in rows], size, bits, 0, key), 1))
        expected = plain.copy()
        expected[:, number] = 255
        assert np.array_equal(got, expected), level


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_is_white(bits):
    colours = np.array([[200, 10, 10], [200, 10, 11], [10, 20, 30]], "u1" if bits == 8 else ">u2")
    if bits == 16:
        colours = (colours.astype(">u2") * 257 + [[0, 0, 0], [0, 0, 1], [0, 0, 0]]).astype(">u2")
    key = chunk(b"tRNS", struct.pack(">HHH", *map(int, colours[0])))
    got = np.asarray(decoded(png_of([colours.tobytes()], (3, 1), bits, 2, key), 3))[0]
    assert got[0].tolist() == [255] * 3 and got[1].tolist() == [200, 10, 11] and got[2].tolist() == [10, 20, 30]


def test_alpha_of_every_kind_is_white():
    clear = Image.new("L", ASTRONAUT.size, 0)
    grey = Image.merge("LA", (ASTRONAUT.convert("L"), clear))
    colour = ASTRONAUT.copy()
    colour.putalpha(clear)
    for picture in (grey, colour):
        for kind in ("PNG", "TIFF", "WEBP"):
            if (picture.mode, kind) != ("LA", "WEBP"):
                assert (np.asarray(decoded(encoded(picture, kind), 3)) == 255).all(), (picture.mode, kind)
    table = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60])) + chunk(b"tRNS", bytes([255, 0]))
    assert np.asarray(decoded(png_of([b"\0\1"], (2, 1), 8, 3, table), 3)).tolist() == [[[10, 20, 30], [255] * 3]]
    for bits, colour in ((16, 4), (16, 6)):
        pixel = struct.pack(">H", 30000) * (1 if colour == 4 else 3)
        row = pixel + struct.pack(">H", 0) + pixel + struct.pack(">H", 65535)
        assert np.asarray(decoded(png_of([row], (2, 1), bits, colour), 3))[0, :, 0].tolist() == [255, 117]


RAMP = np.arange(256).reshape(16, 16)


def tiff(values, **options):
    tifffile.imwrite(buffer := io.BytesIO(), values, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RAMP.astype(np.int32), RAMP),
        (RAMP.astype(np.uint32), RAMP),
        (RAMP.astype(np.int16), RAMP),
        (RAMP.astype(np.uint16), RAMP),
        ((RAMP * 16 + 7).astype(np.uint16), RAMP),
        ((RAMP * 4 + 3).astype(np.uint16), RAMP),
        ((RAMP * 257).astype(np.uint16), RAMP),
        ((RAMP / 255).astype(np.float32), RAMP),
        (RAMP.astype(np.float32), RAMP),
        ((RAMP * 16).astype(np.float32), RAMP),
        ((RAMP - 1000.5).astype(np.float32), RAMP),
        ((RAMP * 5 - 300).astype(np.int16), RAMP),
        ((RAMP * 2.0**24).astype(np.uint32), RAMP),
        (np.where(RAMP == 3, np.nan, RAMP / 255).astype(np.float32), np.where(RAMP == 3, 0, RAMP)),
        (np.full((4, 4), 0.5, np.float32), np.full((4, 4), 128)),
        (np.full((4, 4), -7, np.int32), np.full((4, 4), 0)),
    ],
)
def test_wide_ranges_keep_their_grey_levels(values, expected):
    for order in "<>":
        got = np.asarray(decoded(tiff(values.astype(values.dtype.newbyteorder(order)), byteorder=order), 1))
        assert np.abs(got.astype(int) - expected).max() <= 1
        if values.dtype.kind in "iu" and values.min() >= 0 and values.max() < 2**16:
            assert np.array_equal(got, expected)


def test_tiffs_that_pillow_does_not_know():
    colours = np.repeat((RAMP / 255)[..., None], 3, -1)
    for values in (
        colours.astype(np.float32),
        (colours * 255).astype(np.uint32),
        RAMP.astype(np.float64),
        RAMP.astype(np.int64),
    ):
        kind = "rgb" if values.ndim == 3 else "minisblack"
        assert np.abs(np.asarray(decoded(tiff(values, photometric=kind), 1), int) - RAMP).max() <= 1
    turned = decoded(tiff(RAMP[:8].astype(np.float64), extratags=[(274, "H", 1, 6, True)]), 1)
    assert turned.size == (8, 16)
    with pytest.raises(CorruptPicture, match=r"no picture format that is known"):
        decoded(tiff(np.zeros((4, 4, 2, 5), np.complex64)), 1)


def test_white_is_zero_is_turned_over():
    assert np.array_equal(
        np.asarray(decoded(tiff((RAMP * 257).astype(np.uint16), photometric="miniswhite"), 1)), 255 - RAMP
    )


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("kind", ["png", "<", ">"])
def test_twelve_bits_of_sixteen_in_colour(channels, kind):
    if channels == 2 and kind != "png":
        pytest.skip("Pillow reads no such TIFF")
    values = np.repeat((RAMP * 16 + 3)[..., None], channels, -1).astype(">u2")
    if channels in (2, 4):
        values[..., -1] = 4095
    if kind == "png":
        data = png_of([row.tobytes() for row in values], (16, 16), 16, {2: 4, 3: 2, 4: 6}[channels])
    else:
        extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
        data = tiff(values.astype(kind + "u2"), byteorder=kind, photometric="rgb", **extra)
    assert np.array_equal(np.asarray(decoded(data, 3))[..., 1], RAMP)


def test_huge_numbers():
    assert grey_levels(np.array([-1e308, 0, 1e308, np.inf, np.nan])).tolist() == [0, 128, 255, 255, 0]
    assert grey_levels(np.array([np.nan, np.inf])).tolist() == [0, 0]


def test_lab_is_a_colour_space():
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.applyTransform(ASTRONAUT, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    difference = np.asarray(decoded(encoded(lab, "TIFF"), 3), int) - np.asarray(ASTRONAUT)
    assert np.abs(difference).mean() < 4


def with_chunk(kind, data, checksum=True, last=False):
    whole, new = encoded(ASTRONAUT, "PNG"), chunk(kind, data)
    place = len(whole) - 12 if last else 33
    return whole[:place] + (new if checksum else new[:-4] + b"????") + whole[place:]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"eXIf", b"rubbish" * 9),
        (b"eXIf", b""),
        (b"iCCP", b"big\0\0" + zlib.compress(bytes(3_000_000))),
        (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(90_000_000))),
        (b"tEXt", b"Comment\0" + b"x" * 1_500_000),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"y" * 1_500_000),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"not hexadecimal\n\n\n\nzz")),
        (b"iTXt", b"no end"),
        (b"pHYs", b"1"),
        (b"gAMA", b""),
    ],
)
def test_what_no_pixel_depends_on_does_not_matter(kind, data, last):
    for checksum in (True, False):
        got = decoded(with_chunk(kind, data, checksum, last), 3)
        assert np.array_equal(got, ASTRONAUT), (kind, checksum)


def test_a_broken_exif_block_is_none():
    for kind in ("JPEG", "WEBP"):
        data = encoded(ASTRONAUT, kind, exif=b"Exif\0\0" + b"rubbish" * 5)
        assert decoded(data, 3).size == ASTRONAUT.size


def test_panoramas_up_to_a_limit_of_ones_own():
    data = encoded(Image.new("1", (20_000, 10_000)), "PNG")  # above Pillow's limit for a warning
    assert opened(data)[0].size == (20_000, 10_000)
    with pytest.raises(CorruptPicture, match=r"20000 x 10000 pixels are more than data\.max_pixels=100000000"):
        upright(*opened(data), 1, 10**8)
    with pytest.raises(CorruptPicture, match=r"data\.max_pixels"):
        decoded(encoded(Image.new("1", (40_000, 20_000)), "PNG"), 1)


def test_a_panorama_is_decoded_small_where_the_result_is():
    data = encoded(Image.new("L", (9000, 4500), 77), "JPEG")
    picture, _ = opened(data)
    assert reduced(picture, None, 64) is None and picture.size == (1125, 563)
    picture, _ = opened(encoded(ASTRONAUT, "JPEG"))
    reduced(picture, None, 4)
    assert picture.size == ASTRONAUT.size, "an ordinary picture is evaluated from every pixel"


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000), (3000, 7), (64_000, 2)])
def test_long_pictures_are_cut_before_they_are_resized(size, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, size[::-1], np.uint8)
    done = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda picture, to, *a, **k: (done.append(to), resize(picture, to, *a, **k))[1]
    )
    got = augment.centre_crop(Image.fromarray(pixels), 48, 55, "bicubic")
    assert got.size == (48, 48) and max(map(max, done)) <= 8 * 55


def test_a_long_picture_gives_what_the_whole_gives():
    photograph = Image.fromarray(skimage.data.rocket()).resize((640, 60))
    got = np.asarray(augment.centre_crop(photograph, 24, 27, "bicubic"), int)
    whole = photograph.resize((27 * 640 // 60, 27), Image.Resampling.BICUBIC)
    left = round((whole.width - 24) / 2)
    assert np.abs(got - np.asarray(whole)[2:26, left : left + 24]).max() <= 1
