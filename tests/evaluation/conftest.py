"""A run small enough to be evaluated in every way."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.cli.main import main
from crate_jax.models.registry import boxed_shapes

CONFIG = """
from crate_jax.config import load_config
def get_config():
    config = load_config("quickstart_digits")
    config.total_steps, config.optimizer.warmup_steps, config.batch_size = 4, 1, 16
    config.model.width, config.model.num_heads, config.model.depth, config.model.decoder_depth = 16, 2, 2, 1
    config.measure_every_steps = 0
    config.data.train_split, config.data.validation_split = "train[:400]", "test[:100]"
    return config
"""


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.py").write_text(CONFIG)
    assert main(["pretrain", f"--config={folder}/tiny.py", f"--workdir={folder}/run"]) == 0
    return folder / "run"


def numbers_for(model, seed):
    """Parameters of the network's shapes, without compiling its initialisation."""
    random = np.random.default_rng(seed)
    shapes = nn.meta.unbox(boxed_shapes(model))
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.2, leaf.shape), leaf.dtype), shapes)
