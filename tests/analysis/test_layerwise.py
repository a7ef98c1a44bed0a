"""Layer measurements against the official scripts' arrays, and against NumPy on what the network really holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crate_jax
from crate_jax.analysis.layerwise import (
    attention_weights,
    effective_rank,
    feature_rank,
    measure_decoder_layers,
    measure_one_by_one,
    orthonormal,
    subspace_overlap,
    subspaces_of,
    token_similarity,
)


@pytest.fixture(scope="module")
def official(data_folder):
    """The golden network and its images."""
    pytest.importorskip("torch")
    golden = dict(np.load(data_folder / "official_layers_d48.npz"))
    model, params = crate_jax.load_torch_checkpoint(
        data_folder / "official_crate_mae_d48.pth", num_heads=3, image_size=32, patch_size=8
    )
    return model, params, golden["images_BxCxHxW"].transpose(0, 2, 3, 1), golden


def test_equal_to_the_official_scripts(official):
    model, params, images, golden = official
    measured = crate_jax.measure_layers(model, params, images)
    rate = np.asarray(measured["coding_rate_official"], np.float64)
    zeros = 1 - np.asarray(measured["nonzero"], np.float64)
    np.testing.assert_allclose(rate.mean(1), golden["coding_rate_mean_L"], rtol=1e-4)
    np.testing.assert_allclose(rate.std(1, ddof=1), golden["coding_rate_std_L"], rtol=1e-4)
    np.testing.assert_allclose(zeros.mean(1), golden["zeros_mean_L"], rtol=1e-4)
    np.testing.assert_allclose(zeros.std(1), golden["zeros_std_L"], rtol=1e-4)


def test_attention_and_codes_equal_the_official_code(official, data_folder):
    model, params, _, _ = official
    golden = np.load(data_folder / "official_crate_mae_d48.npz")
    images = golden["images_BxCxHxW"].transpose(0, 2, 3, 1)
    attention = crate_jax.attention_maps(model, params, images, 1)
    np.testing.assert_allclose(attention, golden["attention_layer1_BxKxTxT"], atol=1e-5)
    np.testing.assert_allclose(
        crate_jax.subspace_codes(model, params, images, 1), golden["key_layer1_BxTxD"], atol=1e-5
    )
    larger = golden["hires48_images"].transpose(0, 2, 3, 1)
    codes = crate_jax.subspace_codes(model, params, larger, 1)
    np.testing.assert_allclose(codes, golden["hires48_key_layer1"], atol=1e-5)
    for wrong, words in (((images, 2), "layers 0 to 1"), ((images[:, :30], 1), "patches of 8")):
        with pytest.raises(crate_jax.UserError, match=words):
            crate_jax.attention_maps(model, params, *wrong)


def test_every_number_by_numpy(official):
    """Each key, encoder and decoder, from the traced tokens in float64."""
    model, params, images, _ = official
    layers = crate_jax.trace(model, params, images)[1]
    encoder, decoder = crate_jax.measure_layers(model, params, images), measure_decoder_layers(model, params, images)
    assert encoder["coding_rate"].shape == decoder["coding_rate"].shape == (2, 3)
    assert "nonzero" not in decoder
    for part, measured in (("encoder", encoder), ("decoder", decoder)):
        for index, b in np.ndindex(2, 3):
            layer = {key: np.asarray(value, np.float64)[b] for key, value in layers[f"{part}_{index:02d}"].items()}
            want = by_numpy(layer)
            for key, value in want.items():
                if key in measured:
                    np.testing.assert_allclose(measured[key][index, b], value, rtol=1e-4, err_msg=f"{part} {key}")


def by_numpy(layer, heads=3):
    tokens, width = layer["codes"].shape
    size = width // heads
    rate, peak, own = 0, [], []
    for k in range(heads):
        w = layer["codes"][:, k * size : (k + 1) * size]
        rate += np.linalg.slogdet(np.eye(size) + size / (tokens * 0.25) * w.T @ w)[1] / 2
        weight = np.exp(w @ w.T / size**0.5)
        weight /= weight.sum(1, keepdims=True)
        peak.append(max(weight.mean(0)))
        own.append(np.trace(weight) / tokens)
    out = layer["output"]
    cosine = (out @ out.T) / np.outer(np.linalg.norm(out, axis=1), np.linalg.norm(out, axis=1))
    energy = np.linalg.svd(out - out.mean(0), compute_uv=False) ** 2
    return {
        "coding_rate": rate, "attention_peak": np.mean(peak), "attention_self": np.mean(own),
        "nonzero": np.mean(out != 0), "effective_rank": energy.sum() ** 2 / (energy**2).sum(),
        "token_similarity": (cosine.sum() - tokens) / (tokens * (tokens - 1)),
    }  # fmt: skip


def test_subspaces_that_coincide_and_that_do_not():
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0]
    twice = np.concatenate([basis[:, :4], basis[:, :4] @ np.diag([1, 2, 3, 4]), basis[:, 4:8]], 1)
    np.testing.assert_allclose(
        subspace_overlap(jnp.float32(twice), 3), [[1, 1, 0], [1, 1, 0], [0, 0, 1]], atol=1e-5
    )  # scaled bases span the same subspace


def test_rate_with_orthonormal_bases(official):
    """Equal to NumPy; and, unlike the rate with raw U, the same when each U_k is multiplied by any matrix."""
    model, params, images, _ = official
    tokens = np.asarray(crate_jax.trace(model, params, images)[1]["encoder_01"]["normed"], np.float64)
    subspaces = np.asarray(subspaces_of(params, "encoder_01"), np.float64)
    want = np.zeros(3)
    for k in range(3):
        q = np.linalg.qr(subspaces[:, 16 * k : 16 * (k + 1)])[0]
        for b in range(3):
            w = tokens[b] @ q
            want[b] += np.linalg.slogdet(np.eye(16) + 16 / (len(w) * 0.25) * w.T @ w)[1] / 2
    measured = crate_jax.measure_layers(model, params, images)
    np.testing.assert_allclose(measured["coding_rate_orthonormal"][1], want, rtol=1e-4)

    skew = np.random.default_rng(0).normal(size=(16, 16)) + 3 * np.eye(16)
    skewed = (subspaces.reshape(48, 3, 16) @ (3 * skew)).reshape(48, 48)
    bases = [np.asarray(orthonormal(jnp.float32(x), 3)).reshape(48, 3, 16) for x in (subspaces, skewed)]
    for k in range(3):  # the same projection, and orthonormal
        first, second = bases[0][:, k], bases[1][:, k]
        np.testing.assert_allclose(first @ first.T, second @ second.T, atol=1e-4)
        np.testing.assert_allclose(second.T @ second, np.eye(16), atol=1e-5)


def test_feature_rank():
    """Independent features count one each, copies once, constants not at all; scale and mean do not matter."""
    rng = np.random.default_rng(0)
    independent = rng.normal(size=(20, 50, 8))
    np.testing.assert_allclose(feature_rank(jnp.float32(independent)), 8, rtol=0.03)
    many = np.random.default_rng(1).normal(size=(1, 1000, 8))  # one image, whose tokens take the place of images
    np.testing.assert_allclose(feature_rank(jnp.float32(many)), 8, rtol=0.05)
    np.testing.assert_allclose(jax.jit(feature_rank)(jnp.float32(many)), feature_rank(jnp.float32(many)), rtol=1e-5)
    np.testing.assert_allclose(feature_rank(jnp.float32(5 + independent * np.logspace(-1, 1, 8))), 8, rtol=0.03)
    copies = np.concatenate([independent[..., :2]] * 4, -1)
    np.testing.assert_allclose(feature_rank(jnp.float32(copies)), 2, rtol=0.03)
    some = np.concatenate([independent[..., :4], np.full((20, 50, 4), 3.0)], -1)
    np.testing.assert_allclose(feature_rank(jnp.float32(some)), 4, rtol=0.03)
    assert feature_rank(jnp.zeros((2, 5, 8))) == 0
    assert feature_rank(jnp.float32(independent[:1])) > 7  # of one image: between its tokens


@pytest.mark.parametrize("width", [128, 768])
def test_feature_rank_does_not_depend_on_how_many_tokens(width):
    """1,024 tokens of independent features: the plain participation ratio says 114 of 128 and 438 of 768."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(16, 64, width))
    flat = features.reshape(-1, width)
    plain = width**2 / np.sum(np.corrcoef(flat.T) ** 2)
    assert plain < 0.9 * width
    np.testing.assert_allclose(feature_rank(jnp.float32(features)), width, rtol=0.03)
    loading = rng.normal(size=(width, width)) / width**0.5  # known correlations: features = independent @ loading
    covariance = loading.T @ loading
    true = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    np.testing.assert_allclose(feature_rank(jnp.float32(features @ loading)), width**2 / np.sum(true**2), rtol=0.05)


def test_feature_rank_with_tokens_of_one_image_that_depend_on_each_other():
    """Half of a feature's variance is the image's: still independent features; the true value is known."""
    rng = np.random.default_rng(2)
    features = rng.normal(size=(32, 1, 64)) + rng.normal(size=(32, 32, 64))
    plain = 64**2 / np.sum(np.corrcoef(features.reshape(-1, 64).T) ** 2)
    assert plain < 48
    np.testing.assert_allclose(feature_rank(jnp.float32(features)), 64, rtol=0.1)


def test_extremes_are_finite():
    """A layer that is dead, or whose tokens are all equal."""
    dead = jnp.zeros((2, 5, 8))
    same = jnp.broadcast_to(jnp.float32(np.random.default_rng(0).normal(size=8)), (2, 5, 8)) * 1e18
    np.testing.assert_array_equal(effective_rank(dead), 0)
    np.testing.assert_array_equal(token_similarity(dead), 0)
    np.testing.assert_allclose(token_similarity(same), 1, rtol=1e-5)
    assert np.all(np.isfinite(effective_rank(same)))


@pytest.mark.parametrize("mask_mode", ["token", "drop"])
def test_one_layer_at_a_time(mask_mode):
    """The same measurements, and never more than one layer's parameters are asked for."""
    small = {"image_size": 16, "patch_size": 8, "width": 16, "num_heads": 2, "depth": 3, "decoder_depth": 2}
    model = crate_jax.create_model("crate_mae_tiny", **small, mask_mode=mask_mode)
    params = crate_jax.init_params(model, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    sizes = []

    def bring(tree):
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(tree)))
        return tree

    found = measure_one_by_one(model, params, images, bring)
    want = crate_jax.measure_layers(model, params, images)
    assert set(found) == set(want)
    for key, value in want.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
    layer = sum(leaf.size for leaf in jax.tree.leaves(params["encoder"])) // 3
    assert sizes[1:] == [layer] * 3


def test_other_networks():
    """A ViT is measured where it can be; under jit, in bf16, at another resolution, for another logit scale."""
    small = {"image_size": 16, "patch_size": 8, "width": 16, "num_heads": 2, "depth": 2, "decoder_depth": 1}
    images = jax.random.normal(jax.random.key(1), (2, 16, 24, 3))
    vit = crate_jax.create_model("vit_mae_small", **small, decoder_width=16, decoder_num_heads=2)
    params = crate_jax.init_params(vit, jax.random.key(0))
    measured = crate_jax.measure_layers(vit, params, images)
    assert measured["attention_peak"].shape == (2, 2) and "coding_rate" not in measured
    assert crate_jax.subspace_codes(vit, params, images, 1).shape == (2, 7, 16)
    np.testing.assert_allclose(crate_jax.attention_maps(vit, params, images, 0).sum(-1), 1, rtol=1e-5)
    for options in ({"dtype": "bfloat16"}, {"attention_scale": "paper"}):
        crate = crate_jax.create_model("crate_mae_tiny", **small, **options)
        params = crate_jax.init_params(crate, jax.random.key(0))
        measured = jax.jit(lambda p, x, m=crate: crate_jax.measure_layers(m, p, x))(params, images)
        assert all(np.all(np.isfinite(value)) and value.dtype == jnp.float32 for value in measured.values())
    with pytest.raises(crate_jax.UserError, match="no attention"):
        attention_weights(crate, "encoder_00", {"output": images})
