"""RandAugment, erasing, mixup, CutMix and smoothing, each against a plain reference on real photographs."""

import jax.numpy as jnp
import numpy as np
import pytest
import skimage.color
import skimage.data
import skimage.transform
from PIL import Image

from crate_jax.data import erasing, mixing, pipeline, randaugment
from crate_jax.data.randomness import uniforms

PIXELS = skimage.data.astronaut()[:120, 100:260].copy()
NEAREST = Image.Resampling.NEAREST


def applied(name, amount, sign=1, resampling=NEAREST, pixels=PIXELS):
    return np.asarray(randaugment.OPERATIONS[name](Image.fromarray(pixels), amount, sign, resampling)).astype(float)


def test_operations_on_values():
    value = PIXELS.astype(float)
    np.testing.assert_array_equal(applied("invert", 0.5), 255 - value)
    np.testing.assert_array_equal(applied("posterize", 0.5), value // 64 * 64)  # two bits are left
    np.testing.assert_array_equal(applied("posterize", 1.0), value // 128 * 128)
    np.testing.assert_array_equal(applied("solarize", 0.5), np.where(value < 128, value, 255 - value))
    np.testing.assert_array_equal(applied("solarize_add", 0.5), np.where(value < 128, value + 55, value))
    assert abs(applied("brightness", 0.5, -1) - value * 0.55).max() <= 1
    assert abs(applied("brightness", 1.0) - np.minimum(value * 1.9, 255)).max() <= 1
    grey = value @ [0.299, 0.587, 0.114]
    contrast = np.clip(grey.mean() + 1.45 * (value - grey.mean()), 0, 255)
    assert abs(applied("contrast", 0.5) - contrast).max() <= 2
    colour = np.clip(grey[..., None] + 0.1 * (value - grey[..., None]), 0, 255)
    assert abs(applied("colour", 1.0, -1) - colour).max() <= 2


def test_operations_on_histograms():
    dull = (PIXELS // 2 + 30).astype(np.uint8)
    low, high = dull.min((0, 1)), dull.max((0, 1))
    assert abs(applied("auto_contrast", 0.5, pixels=dull) - (dull - low) / (high - low) * 255.0).max() <= 1
    flat = applied("equalize", 0.5, pixels=dull)
    for channel in range(3):  # ranks stay, and the cumulative histogram becomes a straight line
        order = np.argsort(dull[..., channel].ravel())
        assert (np.diff(flat[..., channel].ravel()[order]) >= 0).all()
        assert abs(np.sort(flat[..., channel].ravel()) - np.linspace(0, 255, flat[..., 0].size)).mean() < 6


def test_sharpness_moves_away_from_a_blur():
    soft, sharp = applied("sharpness", 1.0, -1), applied("sharpness", 1.0)
    inner = (slice(1, -1), slice(1, -1))
    roughness = [np.abs(np.diff(image[inner], axis=1)).mean() for image in (soft, PIXELS.astype(float), sharp)]
    assert roughness == sorted(roughness)
    assert abs((soft + sharp)[inner] / 2 - PIXELS[inner]).mean() < 1  # the same way in both directions, until it clips


def test_operations_on_places():
    shift = applied("shift_across", 0.5)  # 0.225 of 160 pixels: 36 to the left
    np.testing.assert_array_equal(shift[:, :124], PIXELS[:, 36:])
    assert (shift[:, 124:] == randaugment.PAPER).all()
    np.testing.assert_array_equal(applied("shift_down", 1.0, -1)[54:], PIXELS[:66])
    turned = applied("rotate", 0.5, 1, Image.Resampling.BILINEAR)
    expected = skimage.transform.rotate(PIXELS, 15, order=1, preserve_range=True)
    assert abs(turned - expected)[40:80, 50:110].mean() < 3
    sheared = applied("shear_across", 1.0, 1, Image.Resampling.BILINEAR)
    back = skimage.transform.AffineTransform(np.array([[1, 0.3, 0], [0, 1, 0], [0, 0, 1.0]]))
    expected = skimage.transform.warp(PIXELS, back, order=1, preserve_range=True)
    assert abs(sheared - expected)[:90, :120].mean() < 3


def test_every_operation_keeps_size_and_mode():
    for mode in ("RGB", "L"):
        picture = Image.fromarray(PIXELS).convert(mode)
        for operation in randaugment.OPERATIONS.values():
            for amount in (0.0, 0.5, 1.0):
                result = operation(picture, amount, -1, Image.Resampling.BICUBIC)
                assert (result.size, result.mode) == (picture.size, mode)


def test_plan_draws_each_operation_equally_and_applies_half():
    numbers = uniforms(0, np.zeros(6000, int), np.arange(6000), 1, 8)
    plans = [randaugment.plan(row, 9.0, 0.5) for row in numbers]
    drawn = [entry for plan in plans for entry in plan]
    assert abs(len(drawn) / 12_000 - 0.5) < 0.02
    counts = [sum(name == entry[0] for entry in drawn) for name in randaugment.OPERATIONS]
    assert len(counts) == 15 and min(counts) > 330 and max(counts) < 470
    amounts = np.array([entry[1] for entry in drawn])
    assert abs(np.median(amounts) - 0.9) < 0.01 and amounts.max() == 1
    assert abs(np.mean([entry[2] for entry in drawn])) < 0.05


def test_erasing():
    numbers = uniforms(0, np.zeros(4000, int), np.arange(4000), 1, erasing.NUMBERS)
    found = [erasing.rectangle(row, 224, 200, 0.25) for row in numbers]
    boxes = np.array([box for box in found if box])
    assert abs(len(boxes) / 4000 - 0.25) < 0.02
    tall, wide = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = tall * wide / (224 * 200), tall / wide
    assert area.min() > 0.018 and area.max() < 0.34 and ratio.min() > 0.28 and ratio.max() < 3.5
    assert boxes.min() == 0 and (boxes[:, 2] <= 224).all() and (boxes[:, 3] <= 200).all()
    row = next(row for row, box in zip(numbers, found, strict=True) if box)
    image, again = PIXELS.copy(), PIXELS.copy()
    for target in (image, again):
        erasing.erase(target, row, 0.25, (0.5, 0.4, 0.3), (0.1, 0.1, 0.05), 7)
    top, left, bottom, right = erasing.rectangle(row, *PIXELS.shape[:2], 0.25)
    noise, image = image[top:bottom, left:right].astype(float), image.copy()
    np.testing.assert_allclose(noise.mean((0, 1)), [127.5, 102, 76.5], atol=3)
    np.testing.assert_allclose(noise.std((0, 1)), [25.5, 25.5, 12.75], atol=2)
    np.testing.assert_array_equal(image, again)
    image[top:bottom, left:right] = PIXELS[top:bottom, left:right]
    np.testing.assert_array_equal(image, PIXELS)
    gray = [PIXELS[..., :1].copy() for _ in range(2)]
    erasing.erase(gray[0], row, 0.25, (0.5, 0.4, 0.3), (0.1, 0.1, 0.04), 7)
    erasing.erase(gray[1], row, 0.25, (0.4,), (0.08,), 7)  # grey pictures are normalised with the averages
    np.testing.assert_array_equal(*gray)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (40, 24)])
def test_mixing_against_a_loop(height, width):
    rows, size = 7, height if height == width else (height, width)
    images = [PIXELS[i * 10 : i * 10 + height, i * 20 : i * 20 + width] for i in range(rows)]
    images = np.stack(images).astype(np.float32)
    targets = np.eye(rows, dtype=np.float32)
    plan = mixing.mixing_plan(1, np.zeros(rows, int), np.arange(rows), size, 0.8, 1.0)
    batch = mixing.paired({"image": jnp.array(images), "label": jnp.array(targets)})
    got_images, got_targets = mixing.mixed(
        batch["image"], batch["label"], batch["partner_image"], batch["partner_label"], **renamed(plan)
    )
    kinds = set()
    for row in range(rows):
        weight, (top, left, bottom, right) = plan["mix_weight"][row], plan["mix_box"][row]
        other = min(row ^ 1, rows - 1)
        kinds.add(bool(right))
        if right:
            expected = images[row].copy()
            expected[top:bottom, left:right] = images[other][top:bottom, left:right]
            assert weight == pytest.approx(1 - (bottom - top) * (right - left) / (height * width))
        else:
            expected = weight * images[row] + (1 - weight) * images[other]
        np.testing.assert_allclose(got_images[row], expected, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(got_targets[row], weight * targets[row] + (1 - weight) * targets[other], atol=1e-6)
    assert kinds == {True, False}


def renamed(plan):
    return {"weight_B": jnp.array(plan["mix_weight"]), "box_Bx4": jnp.array(plan["mix_box"])}


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0), (0.0, 0.0)])
def test_weights_follow_beta(mixup, cutmix):
    from scipy import stats

    plan = mixing.mixing_plan(0, np.zeros(4000, int), np.arange(4000), 1000, mixup, cutmix)
    cut = plan["mix_box"][:, 2] > 0
    weight = plan["mix_weight"]
    assert abs(cut.mean() - {(0.8, 0.0): 0, (0.0, 1.0): 1, (0.8, 1.0): 0.5, (0.0, 0.0): 0}[mixup, cutmix]) < 0.03
    if mixup:
        assert stats.kstest(weight[~cut], stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    if cutmix:  # a box that lies within the picture has the area that was drawn; the border only makes it smaller
        assert weight[cut].mean() > 0.5 and weight[cut].min() >= 0
    if not mixup and not cutmix:
        assert (weight == 1).all()


def test_smoothing():
    targets = mixing.smoothed(jnp.array([2, 0]), 4, 0.1)
    np.testing.assert_allclose(targets, [[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]], rtol=1e-6)


def test_all_together_is_stateless(config):
    config.data.randaugment, config.data.erasing, config.data.mixup, config.data.cutmix = 2, 0.5, 0.8, 1.0
    config.data.mean, config.data.std = (0.5,) * 3, (0.2,) * 3
    iterator = pipeline.train_batches(config, 32, 3, None)
    batches = [next(iterator) for _ in range(3)]
    iterator.close()
    resumed = pipeline.train_batches(config, 32, 3, None, start_step=2)
    again = next(resumed)
    resumed.close()
    assert again.keys() == {"image", "label", "index", "epoch", "mix_weight", "mix_box"}
    for key in again:
        np.testing.assert_array_equal(again[key], batches[2][key])
    plain = next(pipeline.evaluation_batches(config, "test", 32, 3, 16))
    config.data.randaugment, config.data.erasing = 0, 0.0
    np.testing.assert_array_equal(plain["image"], next(pipeline.evaluation_batches(config, "test", 32, 3, 16))["image"])
