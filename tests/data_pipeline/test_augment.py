"""Augmentation against plain references: torchvision's boxes, Pillow's and scikit-image's resampling."""

import io
import math

import numpy as np
import pytest
import skimage.data
import skimage.transform
from PIL import Image

from crate_jax.data import augment
from crate_jax.data.picture import decoded, opened, reduced, upright
from crate_jax.data.randomness import uniforms

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)


def plain_box(numbers, width, height):
    """RandomResizedCrop.get_params of torchvision, read off the documentation, one draw after the other."""
    for attempt in range(10):
        target = width * height * (SCALE[0] + (SCALE[1] - SCALE[0]) * numbers[attempt])
        aspect = math.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * numbers[10 + attempt])
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = math.floor(numbers[20] * (width - w + 1)), math.floor(numbers[21] * (height - h + 1))
            return [left, top, left + w, top + h]
    w, h = width, height
    if width / height < RATIO[0]:
        h = round(w / RATIO[0])
    elif width / height > RATIO[1]:
        w = round(h * RATIO[1])
    left, top = (width - w) // 2, (height - h) // 2
    return [left, top, left + w, top + h]


@pytest.mark.parametrize("size", [(500, 375), (48, 48), (900, 100), (30, 700), (1, 1)])
def test_boxes_are_torchvisions(size):
    numbers = uniforms(0, np.zeros(300, int), np.arange(300), 1, augment.NUMBERS)
    boxes = np.array([augment.crop_box(row, *size, SCALE, RATIO) for row in numbers])
    assert boxes.tolist() == [plain_box(row, *size) for row in numbers]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= size[0]).all() and (boxes[:, 3] <= size[1]).all()


def test_areas_and_ratios_are_spread_as_the_recipe_says():
    numbers = uniforms(0, np.zeros(4000, int), np.arange(4000), 1, augment.NUMBERS)
    left, top, right, bottom = np.array([augment.crop_box(row, 600, 600, SCALE, RATIO) for row in numbers]).T
    area, ratio = (right - left) * (bottom - top) / 360_000, (right - left) / (bottom - top)
    assert area.min() < 0.21 and area.max() > 0.97
    assert abs(np.log(ratio).mean()) < 0.02
    np.testing.assert_allclose([ratio.min(), ratio.max()], RATIO, atol=0.02)
    assert {0} < set(left) and right.max() == 600


def test_resized_crop_is_pillows_on_a_real_photograph():
    photograph = skimage.data.astronaut()
    got = augment.resized_crop(Image.fromarray(photograph), (30, 40, 330, 290), 224, "bicubic")
    alone = Image.fromarray(photograph[40:290, 30:330].copy())
    assert np.array_equal(got, alone.resize((224, 224), Image.Resampling.BICUBIC))
    smooth = skimage.transform.resize(photograph[40:290, 30:330], (224, 224), order=3, anti_aliasing=True) * 255
    assert abs(np.asarray(got) - smooth).mean() < 4


def test_centre_crop_is_torchvisions():
    photograph = Image.fromarray(skimage.data.rocket())  # 640 x 427
    got = np.asarray(augment.centre_crop(photograph, 224, 256, "bicubic"))
    whole = photograph.resize((int(256 * 640 / 427), 256), Image.Resampling.BICUBIC)
    left, top = round((whole.width - 224) / 2), 16
    assert np.array_equal(got, np.asarray(whole)[top : top + 224, left : left + 224])
    assert augment.centre_crop(photograph.resize((224, 224)), 224, 256, "bicubic").size == (224, 224)


def test_picture_of_the_right_size_is_left_alone():
    pixels = skimage.data.astronaut()[:32, :32]
    assert np.array_equal(augment.centre_crop(Image.fromarray(pixels), 32, 37, "bicubic"), pixels)


def test_affine_is_a_rotation_zoom_and_shift_about_the_centre():
    pixels = skimage.data.camera()[100:228, 100:228]
    numbers = np.array([0.9, 0.2, 0.7, 0.1])
    got = np.asarray(augment.small_affine(Image.fromarray(pixels), numbers, "bilinear"), float)
    angle, zoom, across, down = 2 * numbers - 1
    centre = np.eye(3)
    centre[:2, 2] = 64 - 0.5  # scikit-image counts from the middle of the first pixel
    turn = skimage.transform.SimilarityTransform(scale=1.1**zoom, rotation=angle * math.radians(10)).params
    shift = skimage.transform.SimilarityTransform(translation=(across * 128 / 14, down * 128 / 14)).params
    forward = shift @ centre @ turn @ np.linalg.inv(centre)
    moved = skimage.transform.warp(pixels, np.linalg.inv(forward), order=1, preserve_range=True)
    assert abs(got - moved)[20:-20, 20:-20].max() < 1.5


def test_middle_numbers_change_nothing():
    pixels = skimage.data.camera()[:28, :28]
    assert np.array_equal(augment.small_affine(Image.fromarray(pixels), [0.5] * 4, "bicubic"), pixels)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("side", [(1001, 767), (640, 427)])
def test_reduced_decoding_gives_the_same_crop(orientation, side):
    """A camera's photograph, decoded at a half or a quarter, against decoding it whole."""
    photograph = Image.fromarray(skimage.data.rocket()).resize(side, Image.Resampling.BICUBIC)
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    photograph.save(buffer, "JPEG", quality=95, exif=exif)
    whole = decoded(buffer.getvalue(), 3)
    for size in (48, 100, 160):
        box = (2, 5, whole.width - 21, whole.height - 1)
        picture, turned = opened(buffer.getvalue())
        smaller = reduced(picture, box, size)
        picture = upright(picture, turned, 3)
        factor = round(whole.width / picture.width)
        assert factor in (2, 4, 8) and min(smaller[2] - smaller[0], smaller[3] - smaller[1]) >= size
        got = augment.resized_crop(picture, smaller, size, "bicubic")
        expected = augment.resized_crop(whole, box, size, "bicubic")
        # turned, a side that the factor does not divide begins with the decoder's padding: a pixel's fraction of shift
        assert abs(np.asarray(got, float) - np.asarray(expected, float)).mean() < (2.5 if orientation == 1 else 4.5)


def test_decoding_is_not_reduced_where_the_crop_needs_every_pixel():
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.rocket()).save(buffer, "JPEG")
    picture, _ = opened(buffer.getvalue())
    assert reduced(picture, (0, 0, 400, 319), 160) == (0, 0, 400, 319) and picture.size == (640, 427)


@pytest.mark.parametrize("picture", [(640, 427), (427, 640), (100, 100), (30, 900), (2000, 3)])
@pytest.mark.parametrize("size", [(48, 96), (96, 48), (64, 64)])
def test_rectangles_are_cut_from_the_middle(picture, size):
    photograph = Image.fromarray(skimage.data.rocket()).resize(picture)
    (height, width), shorter = size, 55 * min(size) // 48
    got = augment.centre_crop(photograph, size, shorter, "bicubic")
    assert got.size == (width, height)
    # reference: enlarge until both sides of the enlarged result are covered, then cut
    scale = max(shorter * width / min(size) / picture[0], shorter * height / min(size) / picture[1])
    middle = [side / 2 for side in picture]
    box = [middle[0] - width / 2 / scale, middle[1] - height / 2 / scale,
           middle[0] + width / 2 / scale, middle[1] + height / 2 / scale]  # fmt: skip
    expected = photograph.resize((width, height), Image.Resampling.BICUBIC, box=box)
    assert abs(np.asarray(got, float) - np.asarray(expected, float)).mean() < 6  # of half a pixel
    assert augment.resized_crop(photograph, (0, 0, 2, 3), size, "bilinear").size == (width, height)


def test_reduced_decoding_keeps_both_sides_of_a_rectangle():
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.rocket()).save(buffer, "JPEG")  # 640 x 427
    for size, expected in (((50, 200), (320, 214)), ((50, 80), (80, 54)), ((200, 80), (320, 214))):
        picture, _ = opened(buffer.getvalue())
        reduced(picture, (0, 0, 640, 427), size)
        assert picture.size == expected
