"""Masks against ones drawn by hand, composites against their parts, and one table of a network."""

import jax
import numpy as np
import pytest
from etils import epath

import crate_jax
from crate_jax.analysis.segmentation import METHODS, attention_masks, composites, iou, maskcut_mask, pca_masks, segment
from crate_jax.config import default_config
from crate_jax.evaluation.subject import Subject


def test_composites_are_digits_over_photographs():
    images, masks = composites(4, (32, 48), 3)
    assert images.shape == (4, 32, 48, 3) and masks.shape == (4, 32, 48) and images.dtype == np.uint8
    assert (masks.mean((1, 2)) > 0.01).all() and (masks.mean((1, 2)) < 0.5).all()
    for image, mask in zip(images, masks, strict=True):  # a digit has one colour, a photograph many
        assert image[mask].std(0).mean() < image[~mask].std(0).mean() + 30
    again, _ = composites(4, (32, 48), 3)
    assert (again == images).all() and (composites(4, (32, 48), 3, seed=1)[0] != images).any()


def square(grid=(8, 8)):
    mask = np.zeros(grid, bool)
    mask[2:5, 3:6] = True
    return mask


def test_each_method_finds_a_square_of_other_tokens():
    mask, random = square(), np.random.default_rng(0)
    one, other = random.normal(size=(2, 16))
    other -= one * (one @ other) / (one @ one)
    codes = np.where(mask.reshape(-1, 1), one, other) + 0.05 * random.normal(size=(64, 16))
    assert (maskcut_mask(codes, (8, 8)) == mask.reshape(-1)).all()
    assert (pca_masks(np.stack([codes] * 3), (8, 8)) == mask.reshape(-1)).all()
    attention = np.where(mask, 1.0, 0.01).reshape(1, -1)
    found = attention_masks(attention)
    assert (found <= mask.reshape(1, -1)).all() and attention[found].sum() >= 0.6 * attention.sum()


def test_iou_by_hand():
    mask = square()[None]
    shifted = np.roll(mask, 1, 2)
    assert iou(mask, mask) == 1 and iou(~mask, mask) == 0
    assert iou(shifted, mask) == pytest.approx(6 / 12)


@pytest.mark.parametrize("name", ["crate_mae_tiny", "vit_mae_small"])
def test_a_table_of_the_network_and_the_untrained_one(name, tmp_path):
    size = {"image_size": 16, "patch_size": 4, "width": 16, "num_heads": 2, "depth": 2, "decoder_depth": 1}
    if name == "vit_mae_small":
        size |= {"decoder_width": 16, "decoder_num_heads": 2}
    model = crate_jax.create_model(name, **size)
    params = crate_jax.init_params(model, jax.random.key(1))
    found = segment(Subject(model, params, default_config(), epath.Path(tmp_path), "here"), count=8)
    for who in ("network", "untrained"):
        for method in METHODS:
            one = found.miou[who][method]
            assert one["interval"][0] <= one["mean"] <= one["interval"][1] and one["layer"].startswith("encoder_0")
    assert found.miou["best possible"]["mean"] > found.miou["everything"]["mean"] > 0
    assert len(found.tables["layers"]) == 2 * 3 * 2 and found.plot().axes
