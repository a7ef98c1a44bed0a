"""Completions: errors against pixels put together by hand."""

import jax
import numpy as np
import pytest

import crate_jax
from crate_jax.config import load_config, model_overrides
from crate_jax.evaluation.monitor import make_evaluator
from crate_jax.evaluation.reconstruct import LIMIT, complete, measure, of_split, psnr
from crate_jax.evaluation.subject import Subject
from crate_jax.operators.masking import example_masks
from crate_jax.training.objective import channel_statistics, normalise
from tests.evaluation.conftest import numbers_for


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("mode", ["token", "drop"])
def test_what_is_shown_is_the_prediction_where_removed_and_the_image_elsewhere(norm_pix, mode):
    model = crate_jax.create_model(
        "crate_mae_tiny", image_size=16, patch_size=4, width=16, num_heads=2, depth=1, decoder_depth=1, mask_mode=mode
    )
    params = numbers_for(model, 0)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    normalised = np.asarray(normalise(images, mean, std))
    mask = np.asarray(example_masks(jax.random.key(0), np.arange(3), model.grid, 0.75))
    found = complete(model, params, normalised, mask, mean, std, norm_pix)
    output = np.asarray(jax.jit(model.apply)({"params": params}, normalised, mask).prediction_BxNxF, np.float64)
    errors = {"masked": [], "visible": []}
    for image in range(3):
        for place in range(16):
            part = np.s_[image, place // 4 * 4 : place // 4 * 4 + 4, place % 4 * 4 : place % 4 * 4 + 4]
            target = normalised[part].astype(np.float64).reshape(-1)
            average, deviation = target.mean(), np.sqrt(target.var(ddof=1) + 1e-6)
            goal = (target - average) / deviation if norm_pix else target
            removed = mask[image, place] == 1
            errors["masked" if removed else "visible"].append(np.mean((output[image, place] - goal) ** 2))
            shown = output[image, place] * deviation + average if norm_pix else output[image, place]
            pixels = np.clip(shown.reshape(4, 4, 3) * std + mean, 0, 1)
            np.testing.assert_allclose(found.prediction[part], pixels, atol=1e-4)
            expected = pixels if removed else images[part] / 255
            np.testing.assert_allclose(found.reconstruction[part], expected, atol=1e-4)
            assert (found.mask[part] == removed).all()
    padded = complete(model, params, normalised, mask, mean, std, norm_pix, size=2)  # the last batch is filled up
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), found, padded)
    numbers = measure(found)
    np.testing.assert_allclose(numbers["masked_mse"].mean(), np.mean(errors["masked"]), rtol=1e-4)
    np.testing.assert_allclose(numbers["visible_mse"].mean(), np.mean(errors["visible"]), rtol=1e-4)
    for image in range(3):  # of removed pixels alone: the visible ones are pasted, and would flatter
        removed = np.kron(mask[image].reshape(4, 4), np.ones((4, 4))) == 1
        error = np.mean((found.prediction[image][removed] - images[image][removed] / 255) ** 2)
        assert numbers["masked_psnr"][image] == pytest.approx(-10 * np.log10(error), rel=1e-4)
        assert numbers["psnr"][image] == pytest.approx(-10 * np.log10(0.75 * error), rel=1e-4)
    assert (numbers["masked_ssim"] < numbers["ssim"]).all()


def test_psnr_is_that_of_the_textbook_and_finite():
    one = np.full((2, 4, 4, 1), 0.5)
    assert psnr(one, one + np.array([0.1, 0.0]).reshape(2, 1, 1, 1)) == pytest.approx([20.0, 100.0])


@pytest.mark.parametrize("masking", [{"kind": "block"}, {"ratio": (0.4, 0.8), "ratio_levels": 2}])
def test_a_run_evaluates_its_loss_under_the_masks_it_trains_with(masking, monkeypatch):
    """It was of random masks at model.mask_ratio whatever masking.* said, beside the training loss in loss.png."""
    monkeypatch.setattr("crate_jax.evaluation.monitor._labelled_rows", lambda *_: None)
    leaves = {"model.width": 8, "model.num_heads": 2, "model.depth": 1, "model.decoder_depth": 0}
    leaves |= {f"masking.{name}": value for name, value in masking.items()}
    config = load_config("quickstart_digits", leaves.items())
    model = crate_jax.create_model(config.model.name, **model_overrides(config))
    params = numbers_for(model, 0)
    images, index_B, _ = of_split(Subject(model, params, config, ".", "here"), config.data.validation_split, LIMIT)
    normalised = normalise(images, *channel_statistics(config, model.channels))
    key, losses = jax.random.fold_in(jax.random.key(config.seed), 0x5EED), []
    for ratio in masking.get("ratio", (config.model.mask_ratio,)):
        masks = example_masks(key, index_B, model.grid, ratio, kind=masking.get("kind", "random"))
        output = model.clone(mask_ratio=ratio).apply({"params": params}, normalised, masks)
        losses.append(crate_jax.masked_mse(normalised, output.prediction_BxNxF, masks, model.patch_size))
    found = make_evaluator(config, model)(1, params)["evaluation/loss"]
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-4)
