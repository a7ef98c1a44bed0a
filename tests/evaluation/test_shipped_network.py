"""The network that ships with the package: loads offline, is what its card says, and completes a picture."""

import hashlib

import numpy as np
import pytest
from matplotlib.cbook import get_sample_data

import crate_jax
from crate_jax.interop.named_networks import NETWORKS

FOLDER = NETWORKS / "photographs"


@pytest.fixture(scope="module")
def net():
    return crate_jax.from_pretrained("photographs")


def test_the_card_names_these_very_parameters():
    digest = hashlib.sha256((FOLDER / "params.safetensors").read_bytes()).hexdigest()
    assert digest in (FOLDER / "README.md").read_text()
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 1.5e6


def test_every_photograph_has_its_licence_on_the_card(net):
    card = (FOLDER / "README.md").read_text()
    names = net.subject.open_split("train").class_names
    assert len(names) == 17 and all(f"| {name} |" in card for name in names)


def test_a_picture_it_has_never_seen_is_completed_better_than_by_a_mean(net):
    images = net.preprocess(get_sample_data("grace_hopper.jpg", asfileobj=False), tiles=4)
    found = net.reconstruct(images, mask_ratio=0.6)
    removed, original = found.mask[0, ..., 0] > 0, found.original[0]
    error = np.mean((found.reconstruction[0] - original)[removed] ** 2)
    tiles = original.reshape(4, 32, 4, 32, 3)
    visible = 1 - found.mask[0].reshape(4, 32, 4, 32, 1)
    mean = (tiles * visible).sum((1, 3), keepdims=True) / visible.sum((1, 3), keepdims=True)  # of each tile's own
    constant = np.mean((np.broadcast_to(mean, tiles.shape) - tiles).reshape(128, 128, 3)[removed] ** 2)
    assert error < 0.75 * constant
    np.testing.assert_allclose(found.reconstruction[0][~removed], original[~removed], atol=1e-6)
