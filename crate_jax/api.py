"""The evaluations as functions of a network: each returns a `Result` with numbers, tables, `.save(folder)`, `.plot()`.

`net` is a `Pretrained` or what `from_pretrained` takes. Nothing is written until `.save`, except that `finetune`
and `analyze` work in a folder.
"""

import dataclasses
import os

from etils import epath

from crate_jax.config import flatten, load_config, override, shown
from crate_jax.config_files import installed_configs
from crate_jax.data.listed_once import listed_once
from crate_jax.data.sources import open_source
from crate_jax.errors import UserError, check_flag, check_path, names_arguments
from crate_jax.pretrained import Pretrained, from_pretrained
from crate_jax.storage import check_writable


def list_models() -> list[str]:
    """Names that `create_model` takes."""
    from crate_jax.models.sizes import NETWORKS

    return sorted(NETWORKS)


def list_configs() -> list[str]:
    """Names of the installed configs, which `load_config` and `pretrain` take."""
    return sorted(installed_configs())


@names_arguments
def pretrain(config, workdir):
    """Pre-trains a masked autoencoder in this process, or resumes; layers are measured as the config says.

    Args:
        config: a config, or the name or file of one.
        workdir: a folder; a run of this config in it is resumed.

    Returns:
        A `training.loop.Outcome`.

    Raises:
        UserError: settings, data or a workdir that will not do.
        KeyboardInterrupt: Ctrl-C was pressed (a cell was stopped); a checkpoint was saved first.
    """
    check_path("workdir", workdir)
    from crate_jax.analysis import watching
    from crate_jax.training.pretraining import pretrain as run

    outcome, interrupted = run(_config("config", config), workdir, watch=watching.measuring_observers)
    if interrupted and outcome.preempted:
        raise KeyboardInterrupt
    return outcome


@names_arguments
def subject_of(net, data=None, data_dir=None, out=None):
    """What an evaluation works on.

    Args:
        net: a `Pretrained`, or what `from_pretrained` takes.
        data: None is the run's own data set; else the name of a data set ("cifar10", "image_folder"), or a config (or
            the name of one) whose `data.*` count. The normalisation stays the run's.
        data_dir: folder of the data set.
        out: folder of what is written on the way; None is the workdir.

    Raises:
        UserError: no such network, data set or folder.
    """
    if not isinstance(net, Pretrained | str | os.PathLike):
        raise UserError(f"net={shown(net)}: give what from_pretrained(...) returns, or a workdir, a file or a name.")
    if data_dir is not None:
        check_path("data_dir", data_dir)
    if out is not None:
        check_path("out", out)
        check_writable(os.path.expanduser(out), "out")
    subject = (net if isinstance(net, Pretrained) else from_pretrained(net)).subject
    leaves, data = {}, os.fspath(data) if isinstance(data, os.PathLike) else data
    if data is not None and _names_config(data):
        config = _config("data", data)
        statistics = ("data.mean", "data.std")
        leaves = {k: v for k, v in flatten(config).items() if k.startswith("data.") and k not in statistics}
    elif data is not None and data != subject.config.data.name:
        held_out = _held_out_split(data, data_dir)
        leaves = {"data.name": data, "data.train_split": "train", "data.validation_split": held_out}
        leaves |= {"data.data_dir": None, "data.show_split": None, "data.show_classes": ()}
    if data_dir is not None:
        leaves["data.data_dir"] = str(data_dir)
    if leaves:
        subject = dataclasses.replace(subject, config=override(subject.config, leaves.items()))
    return subject if out is None else dataclasses.replace(subject, out=epath.Path(os.path.expanduser(out)))


def _names_config(data):
    """Whether `data` is a config, or the name or file of one, with an argument or without; else it names a data set."""
    if not isinstance(data, str):
        return True
    named = {data, data.rpartition(":")[0]}
    return any(name.endswith((".py", ".json")) for name in named) or not named.isdisjoint(installed_configs())


def _config(argument, value):
    """The checked config that an argument is, or names; `argument` is its name, for the message."""
    if isinstance(value, str | os.PathLike):
        return load_config(value)
    if not hasattr(value, "items"):
        raise UserError(f"{argument}={shown(value)}: give a config, or the name or file of one.")
    return override(value)


def _held_out_split(name, data_dir):
    for split in ("validation", "test"):
        try:
            open_source(name, split, data_dir)
            return split
        except UserError as error:
            last = error
    raise last


@names_arguments
@listed_once()
def probe(
    net,
    data=None,
    *,
    data_dir=None,
    features=None,
    shots=None,
    baselines=("untrained", "raw"),
    images=None,
    protocol="ours",
):
    """What frozen features are worth to a linear classifier: see `evaluation.probe.probe`.

    Args:
        net, data, data_dir: see `subject_of`.
        features: POOLING@LAYER; None chooses on a held-out part of the training set.
        shots: examples per class of the few-shot probes.
        baselines: of "untrained" and "raw".
        images: a path or list of paths of pictures that take the place of the held-out split.
        protocol: "ours", or "paper", "mae", "attentive", which fix the features (`evaluation.probe`).

    Returns:
        A `Result` with `accuracy`, `interval`, `features`, ...
    """
    from crate_jax.evaluation.probe import probe as run

    subject = subject_of(net, data, data_dir)
    return run(subject, protocol=protocol, features=features, shots=shots, baselines=baselines, pictures=images)


@names_arguments
@listed_once()
def knn(net, data=None, *, data_dir=None, features=None, k=20, temperature=0.07, images=None, approximate=False):
    """What they are worth to a nearest-neighbour classifier: see `evaluation.knn.knn`.

    Args:
        net, data, data_dir: see `subject_of`.
        features: POOLING@LAYER; None is what a `probe` chose that is saved in the workdir (probe.json), else the best
            on a held-out part of the training set. The result says which: `features_from`.
        k, temperature: neighbours that vote, and the temperature of their weights.
        images: a path or list of paths of pictures that take the place of the held-out split.
        approximate: find neighbours by `jax.lax.approx_max_k`, faster on TPU.

    Returns:
        A `Result` with `accuracy`, `interval`, `features`, ...
    """
    from crate_jax.evaluation.knn import knn as run

    subject = subject_of(net, data, data_dir)
    return run(subject, features=features, k=k, temperature=temperature, pictures=images, approximate=approximate)


@names_arguments
@listed_once()
def reconstruct(net, data=None, *, data_dir=None, images=None, limit=1024):
    """Completes masked images of a held-out split and measures: see `evaluation.reconstruct.reconstruct`.

    Args:
        net, data, data_dir: see `subject_of`.
        images: a path or list of paths of pictures that take the place of the held-out split.
        limit: images of the split at most, evenly spaced.

    Returns:
        A `Result` with `masked_mse`, `psnr`, `masked_psnr`, ...
    """
    from crate_jax.evaluation.reconstruct import reconstruct as run

    return run(subject_of(net, data, data_dir), pictures=images, limit=limit)


@names_arguments
def finetune(
    net,
    data=None,
    *,
    data_dir=None,
    recipe=None,
    out=None,
    labels_per_class=None,
    draws=None,
    from_scratch=False,
):
    """Trains a classifier on top of the network, or resumes: see `evaluation.finetune`.

    Args:
        net, data, data_dir: see `subject_of`.
        recipe: a config, or the name or file of one; None chooses by the number of training examples and logs it.
        out: folder of the training; None is WORKDIR/finetune/RECIPE.
        labels_per_class: examples of each class that are trained on, beside a network from scratch; None is all.
        draws: with `labels_per_class`: how often they are drawn; None is 3 times.
        from_scratch: the same network without its pre-training.

    Returns:
        A `Result`, or None if the run was preempted.
    """
    from crate_jax.evaluation import finetune as module
    from crate_jax.evaluation.recipe import folder_name, recipe_for

    check_flag("from_scratch", from_scratch)
    module.check_flags(labels_per_class, draws, from_scratch)
    if out is not None:
        check_path("out", out)
    subject = subject_of(net, data, data_dir)
    if recipe is None:
        recipe = recipe_for(subject.config, labels_per_class=labels_per_class)
    recipe = os.fspath(recipe) if isinstance(recipe, os.PathLike) else recipe
    config = _config("recipe", recipe)
    own = subject.out / "finetune" / folder_name(recipe)
    folder = own if out is None else epath.Path(os.path.expanduser(out))
    return module.finetune(
        subject, config, folder, labels_per_class=labels_per_class, draws=draws, from_scratch=from_scratch
    )


@names_arguments
@listed_once()
def analyze(net, data=None, *, data_dir=None, images=None, limit=64, out=None):
    """Measures what each layer does and writes report.html: see `analysis.analyze.analyze`.

    Args:
        net, data, data_dir, out: see `subject_of`.
        images: a path or list of paths of pictures that take the place of the held-out split.
        limit: images of the split.

    Returns:
        A `Result` with `layers`, `findings` and `report`, the page's path; its figures are those of the page.
    """
    from crate_jax.analysis.analyze import analyze as run

    return run(subject_of(net, data, data_dir, out), pictures=images, limit=limit)


@names_arguments
def segment(net, *, count=128, seed=0):
    """Foreground masks that nobody trained, on digits over photographs: see `analysis.segmentation.segment`.

    Args:
        net: see `subject_of`.
        count: images that are made.
        seed: of the images.

    Returns:
        A `Result` with `miou` by method, of the network and untrained.
    """
    from crate_jax.analysis.segmentation import segment as run

    return run(subject_of(net), count=count, seed=seed)
