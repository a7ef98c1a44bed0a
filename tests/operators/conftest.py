"""What the tests of operators share: the official layers' arrays."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def white_box(data_folder):
    """Inputs, parameters, outputs and gradients of official white-box layers, float32."""
    with np.load(data_folder / "white_box_layers.npz") as arrays:
        return dict(arrays)
