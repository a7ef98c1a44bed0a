"""What the report is made of, against NumPy and against networks whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crate_jax
from crate_jax.analysis import dictionary, diffusion, inverse, objective, principal_components, theory
from crate_jax.models.batches import over_images
from crate_jax.models.stacks import layer_params
from tests.analysis.test_theory import normed_rate

SMALL = {"image_size": 32, "patch_size": 8, "width": 32, "num_heads": 4, "depth": 2, "decoder_depth": 2}


@pytest.fixture(scope="module", params=["token", "drop"])
def either(request):
    """A network of each mask mode."""
    return made(request.param)


@pytest.fixture(scope="module")
def network():
    """The official mask mode."""
    return made("token")


def made(mask_mode):
    model = crate_jax.create_model("crate_mae_tiny", **SMALL, mask_mode=mask_mode)
    images = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
    return model, crate_jax.init_params(model, jax.random.key(0)), images


def test_the_layers_own_norm_is_measured_with(network):
    """Its epsilon was taken to be 1e-5: rates of CRATE-alpha and of any other epsilon were of another network."""
    model, params, images = network
    model = model.clone(layer_norm_epsilon=0.5)
    measured = crate_jax.measure_layers(model, params, images)["coding_rate"]
    found = objective.half_layers(model, params, images)["encoder"]["coding_rate"]
    np.testing.assert_allclose(found[:, 0], measured, rtol=1e-4)


def test_more_than_a_hundred_layers_stand_in_their_order():
    """By their names encoder_100 came after encoder_10."""
    more = SMALL | {"width": 8, "num_heads": 2, "depth": 102, "decoder_depth": 0, "scan_layers": True}
    model = crate_jax.create_model("crate_mae_tiny", **more, sparsification="none")
    params, images = crate_jax.init_params(model, jax.random.key(0)), jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    rates = np.asarray(crate_jax.measure_layers(model, params, images)["coding_rate"])
    terms = objective.half_layers(model, params, images)["encoder"]["coding_rate"]
    np.testing.assert_allclose(terms[:, 0], rates, rtol=1e-3)
    first = model.clone(depth=12)
    ahead = jax.tree.map(lambda leaf: leaf[:12], params["encoder"])
    np.testing.assert_allclose(
        rates[:12], crate_jax.measure_layers(first, params | {"encoder": ahead}, images)["coding_rate"], rtol=1e-3
    )
    assert jnp.allclose(
        inverse.states(model, params, images)[0][11], crate_jax.trace(model, params, images)[1]["encoder_11"]["input"]
    )


def test_over_images_pads_and_cuts():
    images = np.arange(7 * 600 * 600, dtype=np.float32).reshape(7, 600, 600, 1)
    seen = []

    def measure(batch, more):
        seen.append(len(batch))
        return {"sum": np.stack([batch[:, 0, 0, 0], more])}

    found = over_images(measure, images, np.arange(7) * 2)
    assert len(set(seen)) == 1 and len(seen) == 7
    np.testing.assert_array_equal(found["sum"], [images[:, 0, 0, 0], np.arange(7) * 2])


def test_half_layers(network):
    model, params, images = network
    layers = crate_jax.trace(model, params, images)[1]
    found = objective.half_layers(model, params, images)
    for part, stages in objective.STAGES.items():
        terms = found[part]
        assert {value.shape for value in terms.values()} == {(2, 3, 3)}
        step = "compression" if part == "encoder" else "expansion"
        for index, stage in np.ndindex(2, 3):
            name = f"{part}_{index:02d}"
            z = np.asarray(layers[name][stages[stage]], np.float64)[1]
            held = layer_params(params, name)[step]
            norm = held["attention_norm"]
            x = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)
            x = x * np.asarray(norm["scale"]) + np.asarray(norm["bias"])
            rate = np.linalg.slogdet(np.eye(32) + 32 / (17 * 0.25) * x.T @ x)[1] / 2
            w = (x @ np.asarray(held["attention"]["subspaces"])).reshape(17, 4, 8)
            codes = sum(np.linalg.slogdet(np.eye(8) + 8 / (17 * 0.25) * w[:, k].T @ w[:, k])[1] / 2 for k in range(4))
            scale = np.sqrt((z**2).mean(-1, keepdims=True))
            unit = np.divide(z, scale, out=np.zeros_like(z), where=scale > 0)
            bases = [np.linalg.qr(one)[0] for one in np.split(np.asarray(held["attention"]["subspaces"]), 4, axis=1)]
            unscaled = sum(np.linalg.slogdet(np.eye(8) + 8 / (17 * 0.25) * (x @ q).T @ (x @ q))[1] / 2 for q in bases)
            want = {"rate": rate, "coding_rate": codes, "coding_rate_orthonormal": unscaled, "l1": np.abs(unit).mean()}
            for key, value in want.items():
                np.testing.assert_allclose(terms[key][index, stage, 1], value, rtol=1e-3, err_msg=f"{name} {key}")
    np.testing.assert_allclose(
        found["encoder"]["coding_rate"][:, 0],
        crate_jax.measure_layers(model, params, images)["coding_rate"], rtol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("skip", ["input", "normed"])
def test_own_steps(network, skip):
    """Along the exact descent direction, computed by finite differences of the float64 rate through LayerNorm."""
    model, params, images = network
    model = model.clone(skip=skip)
    found = objective.own_steps(model, params, images)
    assert {value.shape for value in found.values()} == {(2, 3)}
    layer = crate_jax.trace(model, params, images)[1]["encoder_01"]
    held = layer_params(params, "encoder_01")["compression"]
    z = np.asarray(layer[skip], np.float64)[1]
    added = np.asarray(layer["compressed"], np.float64)[1] - z
    gain, shift = (np.asarray(held["attention_norm"][key], np.float64) for key in ("scale", "bias"))
    arguments = (gain, shift, np.asarray(held["attention"]["subspaces"], np.float64), 4, 0.5)
    norm = {"scale": jnp.float32(gain), "bias": jnp.float32(shift)}
    slope = theory.gradient_through_norm(jnp.float32(z), norm, jnp.float32(arguments[2]), num_heads=4, epsilon=0.5)
    change = (normed_rate(z + 1e-5 * added, *arguments) - normed_rate(z - 1e-5 * added, *arguments)) / 2e-5
    want = -change / (np.linalg.norm(added) * np.linalg.norm(slope))
    np.testing.assert_allclose(found["added_cosine"][1, 1], want, rtol=1e-2, atol=1e-4)


def test_spectrum():
    """Two directions of unequal energy, whatever the mean."""
    rng = np.random.default_rng(0)
    tokens = 5 + 3 * rng.normal(size=(2, 40, 1)) * np.eye(6)[0] + rng.normal(size=(2, 40, 1)) * np.eye(6)[1]
    share = objective.spectrum(tokens)
    np.testing.assert_allclose(share[:2].sum(), 1, rtol=1e-5)
    assert 0.8 < share[0] < 0.97


def test_states_of_a_perfect_inverse():
    """Encoder states handed back in reverse are found on the diagonal, another image's are not; CKA forgives a turn."""
    rng = np.random.default_rng(0)
    encoder = jnp.float32(rng.normal(size=(4, 3, 5, 16)))
    rotation = jnp.float32(np.linalg.qr(rng.normal(size=(16, 16)))[0])
    found = inverse._compare(encoder, encoder[::-1] * 3)
    expected = inverse.undoing_layer(4, 4)
    np.testing.assert_array_equal(expected, [3, 2, 1, 0])
    np.testing.assert_allclose(found["cosine"][expected, np.arange(4)], 1, rtol=1e-5)
    assert found["cosine"].shape == (4, 4, 3) and np.abs(found["cosine_other_image"]).max() < 0.5
    turned = inverse._compare(encoder, encoder[::-1] @ rotation)
    assert np.abs(turned["cosine"]).max() < 0.7
    np.testing.assert_allclose(turned["cka"][expected, np.arange(4)], 1, rtol=1e-4)
    np.testing.assert_array_equal(inverse.undoing_layer(5, 3), [4, 2, 0])


def test_compare_states(either):
    model, params, images = either
    found = inverse.compare_states(model, params, images)
    assert found["cosine_IxJxB"].shape == (3, 3, 3) and found["cka_IxJ"].shape == (3, 3)
    if model.mask_mode == "token":  # the decoder's first state is the encoder's last; "drop" adds positions between
        np.testing.assert_allclose(found["cosine_IxJxB"][-1, 0], 1, rtol=1e-5)


def test_cka_of_unrelated_features_is_zero():
    """The plain CKA of unrelated wide features is 0.8 here. Equal up to rotation and scale: 1."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 1, 64, 256))
    k, m = (one - one.mean(0) for one in (x[0], y[0]))
    k, m = k @ k.T, m @ m.T
    assert (k * m).sum() / np.linalg.norm(k) / np.linalg.norm(m) > 0.7
    assert np.abs(inverse.cka(jnp.float32(x), jnp.float32(y))).max() < 0.1
    turned = 3 * x @ np.linalg.qr(rng.normal(size=(256, 256)))[0] + 5
    np.testing.assert_allclose(inverse.cka(jnp.float32(x), jnp.float32(turned)), 1, rtol=1e-4)
    half = np.concatenate([x[..., :128], y[..., :128]], -1)  # shares half of its features
    np.testing.assert_allclose(inverse.cka(jnp.float32(x), jnp.float32(half)), 0.5, atol=0.15)


def test_compare_networks(network):
    """A network beside itself has ones on the diagonal; one of another patch size is compared by images' means."""
    model, params, images = network
    images = jnp.concatenate([images, 2 * images[::-1]])
    same = inverse.compare_networks((model, params), (model, params), images)
    assert same.shape == (4, 4)
    np.testing.assert_allclose(np.diag(same), 1, rtol=1e-4)
    other = crate_jax.create_model("crate_mae_tiny", **{**SMALL, "patch_size": 16, "depth": 3})
    beside = (other, crate_jax.init_params(other, jax.random.key(3)))
    assert inverse.compare_networks((model, params), beside, images).shape == (4, 5)


def test_head_pixels_are_the_prediction(either):
    """The last state through the final head is what the network answers; its error is the loss."""
    model, params, images = either
    mask = crate_jax.random_mask(jax.random.key(2), 3, 16, 0.75)
    found = diffusion.along_depth(model, params, images, mask)
    want = model.apply({"params": params}, images, mask).prediction_BxNxF
    np.testing.assert_allclose(found["decoder_pixels_JxBxNxF"][-1], want, atol=1e-4)
    np.testing.assert_allclose(found["error_JxB"][-1].mean(), crate_jax.masked_mse(images, want, mask, 8), rtol=1e-4)
    assert ("encoder_removed_IxB" in found) == (model.mask_mode == "token")
    assert found["encoder_visible_IxB"].shape == (3, 3) and np.all(np.isfinite(found["encoder_visible_IxB"]))
    other = model.clone(positions="subtracted")  # which the projection left out
    last = diffusion.along_depth(other, params, images, mask)["decoder_pixels_JxBxNxF"][-1]
    np.testing.assert_allclose(last, other.apply({"params": params}, images, mask).prediction_BxNxF, atol=1e-4)
    if model.mask_mode == "drop":
        return
    nothing = diffusion.along_depth(model, params, images, jnp.zeros((3, 16)))
    np.testing.assert_allclose(nothing["encoder_visible_IxB"], 0, atol=1e-6)  # nothing removed, nothing to denoise


def test_iterative_completion(either):
    model, params, images = either
    mask = crate_jax.random_mask(jax.random.key(2), 3, 16, 0.75)
    found = diffusion.iterative_completion(model, params, images, mask, passes=3)
    np.testing.assert_array_equal(found["filled_BxN"] == 0, np.asarray(mask) == 0)
    for row in found["filled_BxN"]:
        assert [int((row == number).sum()) for number in (1, 2, 3)] == [4, 4, 4]
    want = model.apply({"params": params}, images, mask).prediction_BxNxF
    np.testing.assert_allclose(found["one_pass_error_B"].mean(), crate_jax.masked_mse(images, want, mask, 8), rtol=1e-4)
    kept = np.where(np.asarray(mask)[..., None] == 0, found["iterative_BxNxF"], 0)
    from crate_jax.operators.patches import patchify

    np.testing.assert_array_equal(kept, np.where(np.asarray(mask)[..., None] == 0, patchify(images, 8), 0))
    once = diffusion.iterative_completion(model, params, images, mask, passes=1)
    np.testing.assert_allclose(once["iterative_error_B"], found["one_pass_error_B"], rtol=1e-5)


def test_dictionary(network):
    model, params, images = network
    outputs = crate_jax.trace(model, params, images)[1]["encoder_01"]["output"][:, 1:]
    usage, (activation,) = jax.device_get(dictionary.atom_usage(model, params, images, (1,)))
    np.testing.assert_allclose(usage[1], np.mean(np.asarray(outputs) > 0, 1).T, atol=1e-6)
    np.testing.assert_allclose(activation, np.moveaxis(np.asarray(outputs), 0, -1), atol=1e-5)
    image, patch, value = dictionary.strongest_patches(activation, [4, 7], 2)
    for a, atom in enumerate((4, 7)):
        np.testing.assert_allclose(value[a, 0], activation[:, atom].max())
        np.testing.assert_allclose(value[a], activation[patch[a], atom, image[a]])
        assert value[a, 0] >= value[a, 1] and image[a, 0] != image[a, 1]
    spectrum = dictionary.dictionary_geometry(model, params)["encoder_00"]
    largest = np.linalg.norm(np.asarray(params["encoder"]["sparsification"]["dictionary"][0]), 2)
    np.testing.assert_allclose(spectrum["step"], 0.1 * largest**2, rtol=1e-5)
    geometry = dictionary.subspace_geometry(model, params)
    assert list(geometry) == ["encoder_00", "encoder_01", "decoder_00", "decoder_01"]
    assert geometry["decoder_00"]["spectrum_KxP"].shape == (4, 8)
    pixels = dictionary.atoms_as_pixels(params, [3])
    atom = np.asarray(params["encoder"]["sparsification"]["dictionary"][0])[:, 3]
    np.testing.assert_allclose(pixels @ np.asarray(params["embedding_kernel"]), atom[None], atol=1e-4)  # F > D: reached
    assert len(dictionary.selective_atoms(usage[1], 5)) <= 5


def test_principal_components_find_the_subject():
    """A square on a ground: the foreground is the square with its hole filled, and the ground is black."""
    rng = np.random.default_rng(0)
    picture = np.zeros((2, 8, 8), bool)
    picture[:, 2:6, 2:6] = True
    codes = np.where(picture[..., None], rng.normal(size=12) * 3, 0) + 0.1 * rng.normal(size=(2, 8, 8, 12))
    codes[:, 3, 3] = codes[:, 0, 0]  # a hole
    tokens = np.concatenate([np.zeros((2, 1, 12)), codes.reshape(2, 64, 12)], 1)
    found = principal_components.colours(tokens, (8, 8))
    np.testing.assert_array_equal(found["inside_BxRxC"], picture)
    assert np.all(found["rgb_BxRxCx3"][~picture] == 0) and found["share_3"][0] > 0.8
    flat = principal_components.colours(np.zeros((1, 17, 12)), (4, 4))
    assert all(np.all(np.isfinite(value)) for value in flat.values())
