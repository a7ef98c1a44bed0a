"""What is evaluated: a run (`--workdir=D`) or a checkpoint (`--checkpoint=P --config=F --out=DIR`), as one thing."""

import dataclasses
import functools
import json
import logging
import os
import re
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from crate_jax.config import default_config, flatten, load_config, model_overrides, override, shown
from crate_jax.config_schema import LEAVES
from crate_jax.data.own_pictures import read_pictures
from crate_jax.data.sources import open_source
from crate_jax.distributed.jax_settings import check_jax_settings
from crate_jax.errors import UserError
from crate_jax.evaluation.results import data_set_in, identity_in, read_result
from crate_jax.interop.checkpoint_file import MODEL, ParamsCheckpoint, open_checkpoint, open_for
from crate_jax.interop.named_networks import located
from crate_jax.interop.tensor_files import check_finite
from crate_jax.interop.torch_checkpoint import read_params
from crate_jax.models.registry import boxed_shapes, create_model, digest_of, init_params
from crate_jax.operators.patches import image_shape
from crate_jax.storage import check_writable, exists, is_remote
from crate_jax.training.checkpoint import Checkpoints
from crate_jax.training.objective import channel_statistics
from crate_jax.training.run_folder import RunFolder, load_step, read_config
from crate_jax.version import __version__

logger = logging.getLogger(__name__)

TRAINED_WITH = ("data.mean", "data.std", "norm_pix_loss")
# of the network, what may be another than in training
FREE = {f"model.{leaf}" for leaf in ("image_size", "table_image_size", "mask_ratio", "dtype", "scan_layers", "remat",
                                     "attention_kernel", "product_kernel", "drop_path")}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network and where its results go."""

    model: Any
    params: Any  # on the host or one device
    config: Any  # its data set, seed and mesh
    out: Any  # the folder of results, an `epath.Path`
    source: str  # a workdir or a file
    step: int | None = None  # of the checkpoint; None where that is not known
    own_data: tuple | None = None  # (data set, held-out split) of the run; None for a file
    settings: tuple = ()  # (leaf, value) of what is set otherwise than in training, and changes results

    @functools.cached_property
    def identity(self):
        """Hexadecimal digits that change with any parameter, and with any attribute that changes what they compute."""
        return digest_of(self.params, _described(self.model))[:16]

    @property
    def statistics(self):
        """(mean, std) that images are normalised with, a number a channel."""
        return channel_statistics(self.config, self.model.channels)

    def untrained(self):
        """The same network with the parameters that its seed begins with."""
        fresh = init_params(self.model, jax.random.key(self.config.seed))
        return dataclasses.replace(self, params=fresh, source=f"{self.source}, untrained", step=0)

    def open_split(self, split):
        """The examples of a split of the subject's data set."""
        settings = self.config.data
        return open_source(settings.name, split, settings.data_dir)

    def read_pictures(self, text):
        """A person's own pictures as the network takes them, uint8, and their names: `own_pictures.read_pictures`."""
        shape = image_shape(self.model.image_size)
        return read_pictures(text, shape, self.model.channels, self.config.data)

    def class_names(self, *splits):
        """A function from a label of these splits to its class's name, or the number where classes have none.

        The classes of the splits are numbered alike.
        """
        names = max((self.open_split(split).class_names or () for split in splits), key=len)
        return lambda label: str(names[label] if 0 <= label < len(names) else label)

    def stamp(self, split=None, examples=None, *, data=None):
        """What every result file says it is of: `examples` (None is all) of a split, or `data` in its place."""
        if data is None:
            opened = self.open_split(split)
            count = opened.num_examples if examples is None else examples
            data = {"name": opened.name, "split": split, "fingerprint": opened.fingerprint, "examples": count}
        source = {"path": self.source, "step": self.step, "parameters": self.identity}
        if self.settings:
            source["settings"] = dict(self.settings)
        return {"data": data, "source": source, "version": __version__}

    def save(self, result, *, also=None):
        """Writes a `Result` into the folder, under a name that says the data set where it is another's.

        Returns the path of the JSON file. `also` is a folder of this result's own, where it has its plain name.
        """
        if also is not None:
            file = result.save(also)
            if file.parent == self.out:
                return file
            try:
                check_writable(self.out, "--workdir")
            except UserError as error:  # a run of somebody else's, say
                logger.warning("%s has no copy in the workdir: %s", file, error)
                return file
        return result.save(self.out, suffix=self.suffix(result.kind, result.numbers["data"]))

    def suffix(self, kind, data):
        """What names of results on `data` (of `stamp`) end with: nothing for the run's own data set.

        Where results belong to no run, those of the first data set have no suffix.
        """
        here, own = (data["name"], data["split"]), self.own_data
        if own is None:
            own = data_set_in(read_result(self.out / f"{kind}.json")) or here
        if here == tuple(own) and self.own_data and self._in_another_folder():
            words = [data["name"], os.path.basename(self.config.data.data_dir.rstrip("/"))]
        elif here == tuple(own):
            return ""
        else:
            words = [data["name"]] if data["name"] != own[0] else [data["name"], data["split"]]
        return "-" + "-".join(re.sub(r"[^A-Za-z0-9._=+-]+", "_", str(word)).strip("_") for word in words)

    def _in_another_folder(self):
        """Whether data.data_dir is not the run's, and holds other training examples than the run began with."""
        run, here = RunFolder(self.source), self.config.data.data_dir
        if not here or not run.data.exists() or here == (trained := read_config(self.source)).data.data_dir:
            return False
        try:
            now = self.open_split(trained.data.train_split).fingerprint
        except UserError:  # it has no such split
            return True
        return json.loads(run.data.read_bytes()).get("fingerprint") != now

    def features_or(self, given, choose, how):
        """What features are taken, and who says so, which results hold as `features_from`.

        Args:
            given: POOLING@LAYER, or None.
            choose: a function to the features where nothing is given and no `probe` of these parameters is saved (of
                several, the one on these data counts).
            how: it chooses, in words.

        Returns:
            (POOLING@LAYER, "given", the name of the `probe`'s file, or `how`).
        """
        if given is not None:
            return given, "given"
        folders = dict.fromkeys(one for one in (self.out, epath.Path(self.source)) if one.is_dir())
        saved = [(file.name, read_result(file)) for folder in folders for file in sorted(folder.glob("probe*.json"))]
        chosen = [(name, one) for name, one in saved if identity_in(one) == self.identity and one.get("chosen")]
        here = (self.config.data.name, self.config.data.validation_split)
        chosen.sort(key=lambda pair: [a != b for a, b in zip(data_set_in(pair[1]) or ("", ""), here, strict=True)])
        return (chosen[0][1]["features"], chosen[0][0]) if chosen else (choose(), how)


def _described(model):
    """The network's class, and its attributes that are not the defaults, but for those of the program alone."""
    values = {field.name: (getattr(model, field.name), field.default) for field in dataclasses.fields(model)}
    same = {name for name in values if (leaf := LEAVES.get(f"model.{name}")) and leaf.resume} | {"parent", "name"}
    values["dtype"] = tuple(jnp.dtype(one).name for one in values["dtype"])
    said = sorted((name, value) for name, (value, default) in values.items() if name not in same and value != default)
    return f"{type(model).__name__} {said!r}"


def resolve(arguments, *, with_decoder=False):
    """The subject that a command line names by `workdir`, `checkpoint`, `config`, `out` and `overrides`.

    Args:
        with_decoder: refuse a file that holds an encoder only.

    Raises:
        UserError: flags that do not go together, no such run or file, or settings that do not fit it.
    """
    if bool(arguments.workdir) == bool(arguments.checkpoint):
        raise UserError("give either --workdir=D or --checkpoint=P --config=F --out=DIR.")
    if arguments.workdir:
        if arguments.config:
            raise UserError(f"--config: the run in {arguments.workdir} has its own; leave it out.")
        return of_run(arguments.workdir, arguments.overrides, arguments.out)
    missing = [f"--{name}" for name in ("config", "out") if not getattr(arguments, name)]
    if "--config" in missing and has_config(arguments.checkpoint):
        missing.remove("--config")
    if missing:
        raise UserError(f"--checkpoint={arguments.checkpoint} also needs {' and '.join(missing)}.")
    config = load_config(arguments.config, arguments.overrides) if arguments.config else None
    return of_checkpoint(
        arguments.checkpoint, config, arguments.out, with_decoder=with_decoder, overrides=arguments.overrides
    )


def has_config(path):
    """Whether its training's config lies beside a checkpoint, as by `Pretrained.save` and of a network that ships.

    Raises:
        UserError: as `named_networks.located`.
    """
    where = located(path)
    files = [os.path.join(where, name) for name in ("config.json", MODEL)]
    return not is_remote(where) and all(exists(file, f"--checkpoint={path}") for file in files)


def of_checkpoint(path, config=None, out=".", *, with_decoder=False, overrides=()):
    """A checkpoint file as a subject. What the file holds counts over what `config` says of the network.

    Args:
        path: `.pth`, `.safetensors`, a folder that `convert` or `Pretrained.save` wrote, or the name of a network
            (`interop.named_networks`).
        config: says the data set, and by its `model.*` what the file does not hold; None is the config saved beside the
            file, else the defaults. Where one is saved beside the file, or the file is ours, its normalisation of
            images and of the loss's targets, `TRAINED_WITH`, count over those of `config`.
        with_decoder: refuse a file that holds an encoder only.
        overrides: pairs (dotted leaf, value) of the command line: their `model.*` can contradict the file.

    Raises:
        UserError: as `interop.checkpoint_file.open_checkpoint`.
    """
    check_jax_settings()
    where = located(path)
    own = read_config(where, overrides) if has_config(path) else None
    if config is None:
        config = own or override(default_config(), overrides)
    explicit = {name for name, _ in overrides}
    opened = open_for(where, model_overrides(config), {name.removeprefix("model.") for name in explicit})
    trained = opened.trained_with if own is None else flatten(own)
    config = override(config, [(leaf, trained[leaf]) for leaf in TRAINED_WITH if leaf in trained.keys() - explicit])
    if with_decoder and opened.encoder_only:
        raise UserError(f"{path} holds an encoder only, and this needs its decoder; fetch the file that has both.")
    network = {leaf: None for leaf in LEAVES if leaf.startswith("model.") and LEAVES[leaf].default is None}
    found = {f"model.{name}": value for name, value in opened.overrides.items() if f"model.{name}" in LEAVES}
    config = override(config, [*(network | found).items(), ("model.name", opened.name)])
    return Subject(opened.model, read_params(opened), config, epath.Path(out), str(path))


def in_memory(model, params, config):
    """A network and the config of its training as a checkpoint to write: of `interop.checkpoint_file`."""
    leaves = flatten(config)
    trained_with = {leaf: leaves[leaf] for leaf in TRAINED_WITH}
    return ParamsCheckpoint(model, params, config.model.name, model_overrides(config), trained_with)


def of_run(workdir, overrides=(), out=None, step=None):
    """A run as a subject.

    Args:
        workdir: of `pretrain` or `finetune`.
        overrides: pairs (dotted leaf, text or value); of `model.*` those that leave the parameters' shapes alone.
        out: folder of results; None is the workdir.
        step: of a checkpoint; None is the newest that can be read.

    Raises:
        UserError: no run there, or an override that its parameters do not fit.
    """
    check_jax_settings()
    workdir = os.path.expanduser(workdir)
    config = read_config(workdir)
    own = (config.data.name, config.data.validation_split)
    step, (model, params) = _newest(workdir) if step is None else load_step(workdir, step)
    for path, leaf in flax.traverse_util.flatten_dict(params, sep="/").items():
        check_finite(np.asarray(leaf), path, workdir)
    trained = config
    if overrides:
        config = _with_table(model, trained, overrides)
        if config.norm_pix_loss != trained.norm_pix_loss:  # what the network predicts is not a matter of choice
            raise UserError(
                f"norm_pix_loss={config.norm_pix_loss}: the network in {workdir} was trained with "
                f"{trained.norm_pix_loss}; leave it out."
            )
        _say_changes(workdir, trained, config)
        changed = create_model(config.model.name, **model_overrides(config))
        shapes = [jax.tree.map(lambda leaf: leaf.shape, boxed_shapes(one)) for one in (model, changed)]
        if shapes[0] != shapes[1]:
            names = ", ".join(f"--config.{name}" for name, _ in overrides if name.startswith("model."))
            raise UserError(f"{names}: the parameters in {workdir} do not fit a network with this setting.")
        model = changed
    changed = tuple(_changed(trained, config))
    return Subject(model, params, config, epath.Path(out or workdir), str(workdir), step, own, changed)


def _changed(trained, config):
    """(leaf, value) of what is set otherwise than in training and changes what is measured."""
    before, after = flatten(trained), flatten(config)
    for name, value in after.items():
        told = name == "data.name" or LEAVES[name].resume  # the first is part of `stamp`
        if value != before[name] and not told and name.startswith(("model.", "data.", "seed", "norm_pix_loss")):
            yield name, value


def _with_table(model, trained, overrides):
    """The trained config with overrides; at another image size its position table is the trained one, resized."""
    config, own = override(trained, overrides), model.table_image_size or model.image_size
    same = config.model.image_size in (None, trained.model.image_size, own)
    if same or "model.table_image_size" in dict(overrides):
        return config
    return override(config, [("model.table_image_size", own)])


def _say_changes(workdir, trained, config):
    """Warns of settings under which the parameters compute another function than the one that was trained."""
    before, after = flatten(trained), flatten(config)
    for name in before:
        if name.startswith(("model.", "data.mean", "data.std")) and name not in FREE and before[name] != after[name]:
            logger.warning(
                "%s=%s: the network in %s was trained with %s, and computes something else now",
                *(name, shown(after[name]), workdir, shown(before[name])),
            )


def _newest(workdir):
    """(step, (model, params)) of the newest checkpoint that can be read.

    Where a head alone was trained on normalised features, the network has the normalisation folded into its head.
    """
    folder = RunFolder(workdir)
    if (folder.classifier / MODEL).exists():
        checkpoints = Checkpoints(folder.checkpoints)
        steps = checkpoints.steps()
        checkpoints.close()
        if steps:
            opened = open_checkpoint(folder.classifier, {})
            return steps[-1], (opened.model, read_params(opened))
    return load_step(workdir)
