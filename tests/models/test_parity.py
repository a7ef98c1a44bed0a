"""The official CRATE-MAE, number by number: golden arrays that its own code made, on a network of random weights.

f32 on the CPU; errors are relative to the largest entry of the golden array.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.interop.checkpoint_file import load_torch_checkpoint
from crate_jax.interop.export import official_arrays
from crate_jax.models.trace import trace
from crate_jax.operators.losses import masked_mse
from crate_jax.operators.masking import mask_from_noise, num_visible
from crate_jax.operators.subspace_attention import split_heads, subspace_attention_weights

DATA = pathlib.Path(__file__).parents[1] / "data"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "official_crate_mae_d48.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def network():
    return load_torch_checkpoint(DATA / "official_crate_mae_d48.safetensors", num_heads=3, lambda_=0.5)


@pytest.fixture(scope="module")
def images(golden):
    return jnp.asarray(golden["images_BxCxHxW"].transpose(0, 2, 3, 1))


def close(ours, golden):
    error = np.abs(np.asarray(ours, np.float64) - golden).max() / np.abs(golden).max()
    assert np.shape(ours) == golden.shape and error < TOLERANCE, error


def test_mask(golden):
    visible = num_visible(golden["noise_BxN"].shape[1], float(golden["mask_ratio"]))
    np.testing.assert_array_equal(mask_from_noise(jnp.asarray(golden["noise_BxN"]), visible), golden["mask_BxN"])


def test_forward(golden, network, images):
    model, params = network
    output = model.apply({"params": params}, images, jnp.asarray(golden["mask_BxN"]))
    close(output.latent_BxTxD, golden["latent_BxTxD"])
    close(output.prediction_BxNxF, golden["prediction_BxNxF"])
    loss = masked_mse(images, output.prediction_BxNxF, golden["mask_BxN"], model.patch_size)
    assert float(loss) == pytest.approx(float(golden["loss"]), rel=TOLERANCE)


@pytest.mark.parametrize("scan_layers,remat", [(False, "none"), (True, "names")])
def test_gradients(golden, network, images, scan_layers, remat):
    model, params = network
    model = model.clone(scan_layers=scan_layers, remat=remat)
    mask_BxN = jnp.asarray(golden["mask_BxN"])

    def loss(params):
        prediction_BxNxF = model.apply({"params": params}, images, mask_BxN).prediction_BxNxF
        return masked_mse(images, prediction_BxNxF, mask_BxN, model.patch_size)

    gradients = official_arrays(model, jax.jit(jax.grad(loss))(params))
    official = {name.removeprefix("grad/"): array for name, array in golden.items() if name.startswith("grad/")}
    assert set(gradients) == set(official)
    largest = max(np.abs(array).max() for array in official.values())
    for name, array in official.items():
        assert np.abs(gradients[name] - array).max() < TOLERANCE * largest, name


def test_attention_and_keys(golden, network, images):
    model, params = network
    layer = trace(model, params, images)[1]["encoder_01"]
    close(layer["codes"], golden["key_layer1_BxTxD"])
    codes_BxTxKxP = split_heads(layer["codes"], model.num_heads)
    attention = subspace_attention_weights(codes_BxTxKxP, scale=codes_BxTxKxP.shape[-1] ** -0.5)
    close(attention, golden["attention_layer1_BxKxTxT"])


@pytest.mark.parametrize("image_size", [None, 48])
def test_another_resolution(golden, image_size):
    path = DATA / "official_crate_mae_d48.safetensors"
    model, params = load_torch_checkpoint(path, num_heads=3, image_size=image_size)
    images = jnp.asarray(golden["hires48_images"].transpose(0, 2, 3, 1))
    close(trace(model, params, images)[1]["encoder_01"]["codes"], golden["hires48_key_layer1"])
