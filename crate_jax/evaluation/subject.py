"""What is evaluated: a run (`--workdir=D`) or a checkpoint (`--checkpoint=P --config=F --out=DIR`), as one thing."""

import dataclasses
import functools
import hashlib
import json
from typing import Any

import flax
import jax
import numpy as np
from etils import epath

from crate_jax.config import load_config, model_overrides, override
from crate_jax.config_schema import LEAVES
from crate_jax.distributed.jax_settings import check_jax_settings
from crate_jax.errors import UserError
from crate_jax.evaluation.figures import save_figure
from crate_jax.interop.checkpoint_file import open_checkpoint
from crate_jax.interop.tensor_files import check_finite
from crate_jax.interop.torch_checkpoint import given, read_params
from crate_jax.models.registry import boxed_shapes, create_model, init_params
from crate_jax.training.objective import channel_statistics
from crate_jax.training.run_folder import load, read_config


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network and where its results go.

    Attributes:
        model, params: the network; parameters on the host or one device.
        config: its data set, seed and mesh.
        out: the folder of results, an `epath.Path`.
        source: what the results say they are of: a workdir or a file.
    """

    model: Any
    params: Any
    config: Any
    out: Any
    source: str

    @functools.cached_property
    def identity(self):
        """Hexadecimal digits that change with any parameter or attribute of the network."""
        digest = hashlib.sha256(repr(self.model).encode())
        for leaf in jax.tree.leaves(self.params):
            digest.update(np.ascontiguousarray(jax.device_get(leaf)).data)
        return digest.hexdigest()[:16]

    @property
    def statistics(self):
        """(mean, std) that images are normalised with, a number a channel."""
        return channel_statistics(self.config, self.model.channels)

    def untrained(self):
        """The same network with the parameters that its seed begins with."""
        return dataclasses.replace(
            self, params=init_params(self.model, jax.random.key(self.config.seed)), source=f"{self.source}, untrained"
        )

    def write(self, name, results, also=None):
        """Writes results as JSON into the folder (and another one), whole or not at all; the first process does."""
        for folder in {self.out, also or self.out} if jax.process_index() == 0 else ():
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{name}.partial"
            partial.write_text(json.dumps(results, indent=2) + "\n")
            partial.replace(folder / name)

    def draw(self, name, make_figure, also=None):
        """Writes what `make_figure` returns into the folder's `figures` (and another's); the first process does."""
        if jax.process_index() == 0:
            figure = make_figure()
            for folder in {self.out, also or self.out}:
                save_figure(figure, folder / "figures" / name)


def resolve(arguments, *, with_decoder=False):
    """The subject that a command line names.

    Args:
        arguments: with `workdir`, `checkpoint`, `config`, `out` and `overrides`.
        with_decoder: refuse a file that holds an encoder only.

    Returns:
        A `Subject`.

    Raises:
        UserError: flags that do not go together, no such run or file, or settings that do not fit it.
    """
    check_jax_settings()
    if bool(arguments.workdir) == bool(arguments.checkpoint):
        raise UserError("give either --workdir=D or --checkpoint=P --config=F --out=DIR.")
    if arguments.workdir:
        if arguments.config:
            raise UserError(f"--config: the run in {arguments.workdir} has its own; leave it out.")
        return of_run(arguments.workdir, arguments.overrides, arguments.out)
    missing = [f"--{name}" for name in ("config", "out") if not getattr(arguments, name)]
    if missing:
        raise UserError(f"--checkpoint={arguments.checkpoint} also needs {' and '.join(missing)}.")
    config = load_config(arguments.config, arguments.overrides)
    return of_checkpoint(arguments.checkpoint, config, arguments.out, with_decoder=with_decoder)


def of_checkpoint(path, config, out, *, with_decoder=False):
    """A checkpoint file as a subject.

    Args:
        path: `.pth`, `.safetensors`, or a folder that `convert` wrote.
        config: says the data set, and by its `model.*` what the file does not hold.
        out: folder of results.
        with_decoder: refuse a file that holds an encoder only.

    Raises:
        UserError: as `interop.checkpoint_file.load_checkpoint`.
    """
    opened = open_checkpoint(path, given(_network_leaves(config)))
    if with_decoder and opened.encoder_only:
        raise UserError(f"{path} holds an encoder only, and this needs its decoder; fetch the file that has both.")
    leaves = {f"model.{name}": value for name, value in opened.overrides.items() if f"model.{name}" in LEAVES}
    config = override(config, [*leaves.items(), ("model.name", opened.name)])
    return Subject(opened.model, read_params(opened), config, epath.Path(out), str(path))


def _network_leaves(config):
    """Attributes of the network, without those that only a classifier has."""
    head = ("num_classes", "drop_path", "pooling")
    return {name: value for name, value in model_overrides(config).items() if name not in head}


def of_run(workdir, overrides=(), out=None):
    """A run as a subject.

    Args:
        workdir: of `pretrain` or `finetune`.
        overrides: pairs (dotted leaf, text or value); of `model.*` those that leave the parameters' shapes alone.
        out: folder of results; None is the workdir.

    Raises:
        UserError: no run there, or an override that its parameters do not fit.
    """
    config = read_config(workdir)
    model, params = load(workdir)
    for path, leaf in flax.traverse_util.flatten_dict(params, sep="/").items():
        check_finite(np.asarray(leaf), path, workdir)
    if overrides:
        config = override(config, overrides)
        changed = create_model(config.model.name, **model_overrides(config))
        shapes = [[leaf.shape for leaf in jax.tree.leaves(boxed_shapes(one))] for one in (model, changed)]
        if shapes[0] != shapes[1] or jax.tree.structure(boxed_shapes(model)) != jax.tree.structure(
            boxed_shapes(changed)
        ):
            names = ", ".join(f"--config.{name}" for name, _ in overrides if name.startswith("model."))
            raise UserError(f"{names}: the parameters in {workdir} do not fit a network with this setting.")
        model = changed
    return Subject(model, params, config, epath.Path(out or workdir), str(workdir))
