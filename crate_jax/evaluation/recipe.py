"""The config of a fine-tuning: what a recipe gives, and what it takes over from the pre-training run.

A recipe is a config like any other. A leaf that its file or the command line gives counts, be it equal to the default.
What is not given is inherited from the pre-training run where `inherited` says so, and only there:

    model.*                 what the classifier shares with the pre-trained network
    data.mean, data.std     the normalisation that the encoder was trained with, on any data set
    data.*                  the rest as well, where the data set is the run's own
    seed
"""

import logging
import pathlib

import jax.numpy as jnp

from crate_jax.config import flatten, given, override
from crate_jax.config_schema import LEAVES
from crate_jax.data.sources import open_source
from crate_jax.errors import UserError
from crate_jax.models.registry import attributes
from crate_jax.training.preflight import PRE_TRAINING, check_effect

logger = logging.getLogger(__name__)

SMALL, MEDIUM = 10_000, 300_000  # training examples below which the recipe of `recipe_for` is finetune, finetune:medium


def classifier_settings(config, model):
    """The leaves `model.*`, with their values, of the classifier that the encoder of a pre-trained `model` fits.

    The position table is that of the pre-training's image size, resized where fine-tuning is at another.
    """
    name = config.model.name
    if "_mae_" in name:
        name = name.replace("_mae_", "_classifier_").removesuffix("_paper")
    fields = attributes(name) - {"num_classes"}
    found = {"model.name": name}
    for leaf in LEAVES:
        attribute = leaf.removeprefix("model.")
        if leaf.startswith("model.") and attribute in fields and hasattr(model, attribute):
            value = getattr(model, attribute)
            found[leaf] = jnp.dtype(value).name if attribute == "dtype" else value
    return found | {"model.table_image_size": model.table_image_size or model.image_size}


def recipe_for(pretrained, overrides=(), labels_per_class=None):
    """The installed recipe, a name for `load_config`, by the size of the data set, where none was chosen; logged.

    Args:
        pretrained: config of the pre-trained network.
        overrides: pairs (dotted leaf, text or value) that are to be given; they may name another data set.
        labels_per_class: examples per class that are trained on; None is all.
    """
    settings = override(pretrained, [(name, value) for name, value in overrides if name.startswith("data.")]).data
    source = open_source(settings.name, settings.train_split, settings.data_dir)
    count = source.num_examples
    if labels_per_class and source.num_classes:
        count = min(count, labels_per_class * source.num_classes)
    size = next((size for size in ("large", "huge") if size in pretrained.model.name), "base")
    recipes = {SMALL: "finetune", MEDIUM: "finetune:medium"}
    name = next((name for most, name in recipes.items() if count < most), f"finetune_imagenet:{size}")
    logger.info("recipe for %s training examples: --config=%s", f"{count:,}", name)
    return name


def folder_name(recipe):
    """The recipe's name as a folder's: finetune_imagenet:large and path/to/mine.py:large end in _large."""
    if not isinstance(recipe, str):
        return "finetune"
    name, _, argument = recipe.partition(":") if ":" in pathlib.PurePath(recipe).name else (recipe, "", "")
    return pathlib.PurePath(name).stem + (f"_{argument}" if argument else "")


def inherited(recipe, pretrained, model):
    """The leaves, with their values, that a fine-tuning takes over: those of the list above that are not given.

    `recipe` and `pretrained` are configs, `model` is the pre-trained network.
    """
    said = given(recipe) - {"model.name"}
    own_data = "data.name" not in said or recipe.data.name == pretrained.data.name
    leaves = {name: value for name, value in flatten(pretrained).items() if name.startswith("data.") and own_data}
    leaves |= {"seed": pretrained.seed, "data.mean": pretrained.data.mean, "data.std": pretrained.data.std}
    leaves |= classifier_settings(pretrained, model)
    return {name: value for name, value in leaves.items() if name not in said}


def compose(recipe, pretrained, model, *, source=None, identity=None, labels_per_class=None, draw=0):
    """The checked config of a fine-tuning; its `model.num_classes` is that of the data set.

    Args:
        recipe, pretrained, model: as of `inherited`.
        source, identity: of its parameters; None: from scratch.
        labels_per_class, draw: which examples are trained on.

    Raises:
        UserError: no labels, or settings that do not go together.
    """
    check_effect(recipe, PRE_TRAINING, "fine-tuning", "pretrain")
    begin = {"source": source, "identity": identity, "labels_per_class": labels_per_class, "draw": draw}
    leaves = inherited(recipe, pretrained, model) | {f"finetune.{name}": value for name, value in begin.items()}
    config = override(recipe, leaves.items())
    opened = open_source(config.data.name, config.data.train_split, config.data.data_dir)
    if not opened.num_classes:
        raise UserError(f"data.name={config.data.name} has no labels, and fine-tuning needs them.")
    if opened.num_classes < 2:
        raise UserError(f"data.name={config.data.name} has one class only; a classifier needs two or more.")
    classes = config.model.num_classes or opened.num_classes
    if classes < opened.num_classes:
        raise UserError(
            f"model.num_classes={classes}: {config.data.name} has {opened.num_classes} classes; leave it out."
        )
    return override(config, [("model.num_classes", classes)])


def check_head_only(config, model, encoder):
    """Refuses what has no such probe, and settings that it would have to ignore.

    Raises:
        UserError: another pooling, no pre-trained encoder, or soft targets and depths.
    """
    if model.pooling != "cls":
        raise UserError(f"model.pooling={model.pooling}: a head alone (finetune.head_only) reads the class token, cls.")
    if encoder is None:
        raise UserError("finetune.head_only: a head alone, from scratch, on an encoder that stays untrained; drop one.")
    flat = flatten(config)
    for name in ("data.mixup", "data.cutmix", "data.label_smoothing", "model.drop_path", "optimizer.layer_decay"):
        if flat[name]:
            raise UserError(f"{name}={flat[name]}: a head alone (finetune.head_only) is trained without it; unset one.")
