"""A run small enough to be started over and over: digits, width 16, one layer a side."""

import pytest

from crate_jax.config import default_config, override

TINY = {
    "model.name": "crate_mae_tiny", "model.image_size": 28, "model.patch_size": 7, "model.channels": 1,
    "model.width": 16, "model.num_heads": 2, "model.depth": 2, "model.decoder_depth": 1, "model.mask_mode": "drop",
    "data.name": "embedded_digits", "data.validation_split": "test", "data.augmentation": "affine",
    "data.mean": (0.1307,), "data.std": (0.3081,),
    "batch_size": 16, "total_steps": 12, "log_every_steps": 1, "measure_every_steps": 5,
    "optimizer.learning_rate": 1e-3, "optimizer.warmup_steps": 2, "optimizer.clip_norm": 1.0,
    "checkpoint.every_steps": 4,
}  # fmt: skip


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A folder for data; the digits come inside a package."""
    return tmp_path_factory.mktemp("digits")


@pytest.fixture(scope="session")
def tiny(digits):
    """The config of such a run."""
    return override(default_config(), [*TINY.items(), ("data.data_dir", str(digits))])
