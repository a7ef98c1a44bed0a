"""A run's folder: `config.json`, `data.json`, `checkpoints/`, `metrics.jsonl`, events, `figures/` and results as JSON.

Local or in an object store (`gs://...`): paths are `etils.epath`.
"""

import contextlib
import json
import logging

import flax.linen as nn
import jax
from etils import epath

from crate_jax.config import check_resumable, from_json, model_overrides, to_json
from crate_jax.errors import UserError
from crate_jax.models.registry import boxed_shapes, create_model
from crate_jax.storage import exists, is_remote, make_folder, write_whole
from crate_jax.storage_errors import user_errors
from crate_jax.training.checkpoint import Checkpoints

logger = logging.getLogger(__name__)


class RunFolder:
    """Where things lie in a workdir.

    Raises:
        UserError: an address where no files are.
    """

    def __init__(self, workdir):
        is_remote(workdir)  # or an address where no files are, which is refused
        self.path = epath.Path(workdir)
        self.config = self.path / "config.json"
        self.data = self.path / "data.json"  # of which examples the run began with
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

    def begin(self, config, source, step):
        """Writes `config.json`, and `data.json` at step 0; the first process does.

        Raises:
            UserError: they cannot be written.
        """
        if jax.process_index() == 0:
            with user_errors(f"--workdir={self.path} cannot be written"):
                make_folder(self.path)
                write_whole(self.config, to_json(config))
                if not step or not self.data.exists():
                    facts = {"fingerprint": source.fingerprint, "examples": source.num_examples}
                    write_whole(self.data, json.dumps(facts) + "\n")

    def compare_data(self, source):
        """Warns where a run that is resumed began with other examples: pictures that were added or removed since."""
        with user_errors(f"--workdir={self.path} cannot be read"):
            text = self.data.read_bytes() if self.data.exists() else b"{}"
        with contextlib.suppress(ValueError, AttributeError):  # not as it was written
            began = json.loads(text)
            if began.get("fingerprint", source.fingerprint) != source.fingerprint:
                logger.warning(
                    "%s, %s has changed since this run began (%s examples then, %d now): its further steps are not "
                    "those that it would have made, and epochs are of another length",
                    *(source.name, source.split, began.get("examples"), source.num_examples),
                )


def read_config(workdir, overrides=()):
    """The config of a run.

    Raises:
        UserError: the folder holds no run, or cannot be read.
    """
    folder = RunFolder(workdir)
    if not exists(folder.config, f"--workdir={workdir}"):
        raise UserError(f"--workdir={workdir} holds no run (no config.json); name the workdir of a `pretrain`.")
    with user_errors(f"--workdir={workdir} cannot be read"):
        text = folder.config.read_bytes()
    return from_json(text, overrides, folder.config)


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
