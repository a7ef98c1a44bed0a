"""Data that the tests of the pipeline share: a config, and pictures in a package."""

import pytest

from crate_jax.config import default_config


@pytest.fixture
def config():
    """The photographs, in batches of 16."""
    made = default_config()
    made.data.name = "embedded_photographs"
    made.data.validation_split = "test"
    made.batch_size = 16
    return made
