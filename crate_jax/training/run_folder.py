"""A run's folder: `config.json`, `checkpoints/`, `metrics.jsonl`, TensorBoard's events, `figures/` and results as JSON.

Local or in an object store (`gs://...`): paths are `etils.epath`.
"""

import flax.linen as nn
import jax
from etils import epath

from crate_jax.config import check_resumable, from_json, model_overrides, to_json
from crate_jax.errors import UserError
from crate_jax.models.registry import boxed_shapes, create_model
from crate_jax.storage import make_folder, user_errors, write_whole
from crate_jax.training.checkpoint import Checkpoints


class RunFolder:
    """Where things lie in a workdir."""

    def __init__(self, workdir):
        self.path = epath.Path(workdir)
        self.config = self.path / "config.json"
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.figures = self.path / "figures"
        self.classifier = self.path / "classifier"  # of a head alone: with its normalisation folded in

    def check(self, config):
        """Checks that a run of `config` may begin here or go on. Writes nothing.

        A folder without a checkpoint is new: what failed before its first checkpoint does not bind its successor.

        Raises:
            UserError: it belongs to another config, or cannot be read.
        """
        with user_errors(f"--workdir={self.path} cannot be read"):
            begun = Checkpoints(self.checkpoints).steps()
            if begun and not self.config.exists():
                raise UserError(f"--workdir={self.path} has checkpoints but no config.json; take another workdir.")
            if begun:
                check_resumable(from_json(self.config.read_bytes(), source=self.config), config)

    def begin(self, config):
        """Writes `config.json`; the first process does. Raises UserError where it cannot be."""
        if jax.process_index() == 0:
            with user_errors(f"--workdir={self.path} cannot be written"):
                make_folder(self.path)
                write_whole(self.config, to_json(config))


def read_config(workdir, overrides=()):
    """The config of a run.

    Raises:
        UserError: the folder holds no run.
    """
    folder = RunFolder(workdir)
    if not folder.config.exists():
        raise UserError(f"--workdir={workdir} holds no run (no config.json); name the workdir of a `pretrain`.")
    return from_json(folder.config.read_bytes(), overrides, folder.config)


def load(workdir, step=None):
    """(model, params) of a run; see `load_step`."""
    return load_step(workdir, step)[1]


def load_step(workdir, step=None):
    """A run's network, and the step that it is of.

    Args:
        workdir: of `pretrain` or `finetune`.
        step: of a kept checkpoint; None is the newest that can be read.

    Returns:
        (step, (model, params)): params of the running mean where the run keeps one.

    Raises:
        UserError: no run, or no checkpoint in it.
    """
    config = read_config(workdir)
    model = create_model(config.model.name, **model_overrides(config))
    shapes = nn.meta.unbox(boxed_shapes(model))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
    item = "params" if config.optimizer.ema is None else "ema"
    step, params = Checkpoints(RunFolder(workdir).checkpoints).restore_item(item, abstract, step)
    return step, (model, params)
