"""Data that the tests of the pipeline share: the embedded sets prepared once, and a config."""

import pytest

from crate_jax.config import default_config
from crate_jax.data.preparation import EMBEDDED, prepare_embedded


@pytest.fixture(scope="session")
def embedded_dir(tmp_path_factory):
    """A TFDS root folder with both embedded data sets."""
    folder = tmp_path_factory.mktemp("embedded")
    for name in EMBEDDED:
        prepare_embedded(name, folder)
    return str(folder)


@pytest.fixture
def config(embedded_dir):
    """The photographs, in batches of 16."""
    made = default_config()
    made.data.name = "embedded_photographs"
    made.data.data_dir = embedded_dir
    made.data.validation_split = "test"
    made.batch_size = 16
    return made
