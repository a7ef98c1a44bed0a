"""The networks: official parameter counts, one layout of parameters, nothing seen of a removed patch."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax import UserError, create_model, init_params, random_mask
from crate_jax.models.flops import flops_per_image
from crate_jax.models.registry import num_parameters
from tests.random_parameters import random_parameters

TINY = {"width": 48, "num_heads": 3, "depth": 2, "decoder_depth": 1, "image_size": 32, "patch_size": 8}
IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)


def unused_by_the_network(width, patches=196):
    """pos_embed, decoder_pos_embed (frozen) and decoder_embed (never called) are in the official count."""
    return 2 * (patches + 1) * width + width * width + width


@pytest.mark.parametrize(
    ("name", "width", "official"),
    [("tiny", 384, 11_555_328), ("small", 576, 25_405_824), ("base", 768, 44_638_464), ("large", 1024, 154_274_560)],
)
def test_counts_are_the_official_ones_to_the_unit(name, width, official):
    assert num_parameters(create_model(f"crate_mae_{name}")) + unused_by_the_network(width) == official


def test_baselines_have_the_sizes_of_the_papers():
    frozen = 197 * (768 + 512)
    assert round((num_parameters(create_model("vit_mae_base")) + frozen) / 1e6, 1) == 111.9
    assert round((num_parameters(create_model("vit_mae_base_paper")) + 197 * 2 * 768) / 1e6, 1) == 143.8
    assert round((num_parameters(create_model("vit_mae_small")) + 197 * (384 + 512)) / 1e6, 1) == 47.6


@pytest.mark.parametrize(
    ("name", "mode", "gigaflops"),
    [("crate_mae_base", "token", 67), ("crate_mae_base", "drop", 39), ("vit_mae_base", None, 58),
     ("vit_mae_base_paper", None, 97)],
)  # fmt: skip
def test_arithmetic_of_a_training_step(name, mode, gigaflops):
    assert round(flops_per_image(create_model(name, mask_mode=mode)) / 1e9) == gigaflops


@pytest.fixture(scope="module", params=["token", "zero", "drop", "vit"])
def network(request):
    name, extra = ("vit_mae_small", {"decoder_width": 32, "decoder_num_heads": 2}) if request.param == "vit" else (
        "crate_mae_tiny", {"mask_mode": request.param})  # fmt: skip
    model = create_model(name, **TINY, **extra)
    params = random_parameters(model)
    return model, params, loss_and_slopes(model, params)


def masks(model):
    return random_mask(jax.random.key(1), 2, 16, model.mask_ratio)


def loss_and_slopes(model, params):
    """A loss, its gradient in the parameters and in the images."""

    def loss(params, images):
        return jnp.mean(jnp.square(model.apply({"params": params}, images, masks(model)).prediction_BxNxF - 1))

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, IMAGES)


def test_nothing_is_seen_of_a_removed_patch(network):
    model, _, (_, (_, slope)) = network
    by_patch_BxN = np.abs(np.asarray(slope).reshape(2, 4, 8, 4, 8, 3)).sum((2, 4, 5)).reshape(2, 16)
    removed_BxN = np.asarray(masks(model)) == 1
    assert (by_patch_BxN[removed_BxN] == 0).all()
    assert (by_patch_BxN[~removed_BxN] > 0).all()


def test_scan_and_remat_change_nothing_but_the_program(network):
    model, params, plain = network
    for options in ({"scan_layers": True, "remat": "names"}, {"remat": "full"}):
        other = loss_and_slopes(model.clone(**options), params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-4), plain, other)


def test_dropped_patches_leave_the_encoder_and_whole_images_do_not(network):
    model, params, _ = network
    mask_BxN = random_mask(jax.random.key(1), 2, 16, 0.75)
    masked = jax.eval_shape(model.apply, {"params": params}, IMAGES, mask_BxN)
    assert masked.latent_BxTxD.shape[1] == (5 if model.mask_mode == "drop" else 17)
    assert masked.prediction_BxNxF.shape == (2, 16, 192)
    assert jax.eval_shape(model.apply, {"params": params}, IMAGES).latent_BxTxD.shape[1] == 17


def test_bfloat16_computes_in_bfloat16_and_learns_in_float32(network):
    model, params, _ = network
    low = model.clone(dtype=jnp.bfloat16)
    output = jax.eval_shape(low.apply, {"params": params}, IMAGES)
    assert output.prediction_BxNxF.dtype == output.latent_BxTxD.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(lambda: init_params(low, jax.random.key(0))))} == {
        jnp.dtype("float32")
    }


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("crate_mae_bse", {}, ["model.name", "crate_mae_base"]),
        ("crate_mae_base", {"widht": 3}, ["model.widht", "width"]),
        ("crate_mae_base", {"width": 130, "num_heads": 4}, ["130", "num_heads=4", "128 or 132"]),
        ("crate_mae_base", {"image_size": 100}, ["image_size=100", "patch_size=16", "96"]),
        ("crate_mae_base", {"mask_ratio": 1.0}, ["mask_ratio=1.0", "(0, 1)"]),
        ("crate_mae_base", {"patch_size": 0}, ["model.patch_size=0", "[1, 1024]"]),
        ("crate_mae_base", {"num_heads": 0}, ["model.num_heads=0"]),
        ("crate_mae_base", {"image_size": "224"}, ["model.image_size='224'"]),
        ("crate_mae_base", {"dtype": "float99"}, ["model.dtype", "bfloat16"]),
        ("cbsa_mae_base", {"pool_size": 0}, ["model.pool_size=0"]),
        ("crate_mae_base", {"mask_ratio": 0.999}, ["none of 196 patches"]),
        ("crate_mae_base", {"skip": "nowhere"}, ["model.skip", "input, normed"]),
        ("crate_mae_base", {"decoder_width": 512}, ["decoder_width"]),
        ("crate_mae_base", {"decoder_num_heads": 6}, ["decoder_num_heads", "num_heads=12"]),
        ("vit_mae_base", {"mask_mode": "token"}, ["mask_mode", "drop"]),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(name, overrides, words):
    with pytest.raises(UserError) as refusal:
        create_model(name, **overrides)
    assert all(word in str(refusal.value) for word in words) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("width, heads", [(32, 6), (384, 7), (30, 6), (5, 5), (34, 2)])
def test_a_width_that_an_error_suggests_is_one(width, heads):
    """It suggested 30 for six heads, which is no multiple of 4, as the positions need it."""
    with pytest.raises(UserError, match=f"model.width={width} is not divisible by") as refused:
        create_model("crate_mae_tiny", width=width, num_heads=heads)
    suggested = re.findall(r"\d+", str(refused.value).rpartition("such as ")[2])
    assert len(suggested) == 2
    for good in suggested:
        create_model("crate_mae_tiny", width=int(good), num_heads=heads)
