"""Fine-tuning: a classifier on a pre-trained encoder, through the train step, loop and checkpoints of pre-training.

A recipe is a config like any other. A leaf that its file or the command line gives counts, be it equal to the default.
What is not given is inherited from the pre-training run where `inherited` says so, and only there:

    model.*                 what the classifier shares with the pre-trained network
    data.mean, data.std     the normalisation that the encoder was trained with, on any data set
    data.*                  the rest as well, where the data set is the run's own
    seed
"""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from crate_jax.config import flatten, given, model_overrides, override
from crate_jax.config_schema import LEAVES
from crate_jax.data import pipeline
from crate_jax.data.sources import open_source
from crate_jax.distributed.mesh import make_mesh
from crate_jax.distributed.sharding import batch_sharding, check_batch, rules_for
from crate_jax.errors import UserError
from crate_jax.evaluation.classification import Classification, layer_rates, pretrained_start
from crate_jax.evaluation.feature_store import evenly_spaced, split_batches
from crate_jax.evaluation.few_shot import drawn
from crate_jax.evaluation.head_only import HeadOnly, check_head_only, fold_normalisation, head_factors, save_classifier
from crate_jax.models.registry import create_model, for_platform, model_class
from crate_jax.training.objective import channel_statistics, normalise
from crate_jax.training.observers import on_one_device
from crate_jax.training.preflight import PRE_TRAINING, check_effect
from crate_jax.training.program import build_program
from crate_jax.training.run import run_training
from crate_jax.training.start import with_params

logger = logging.getLogger(__name__)

SMALL, MEDIUM = 10_000, 300_000  # training examples below which the recipe of `recipe_for` is finetune, finetune:medium
# MAE initialises the head of a probe with deviation 0.01, that of fine-tuning with 2e-5: LARS steps go by its norm
HEAD_GROWTH = 500.0
LOOKED_AT = 64  # examples, for labels, of a data set whose labels are known when it is read


def classifier_settings(config, model):
    """Leaves `model.*` of the classifier that a pre-trained network's encoder fits.

    Args:
        config: of the pre-trained network; its name says the family.
        model: the network.

    Returns:
        A dictionary from dotted leaf to value. The position table is that of the pre-training's image size, resized
        where fine-tuning is at another.
    """
    name = config.model.name
    if "_mae_" in name:
        name = name.replace("_mae_", "_classifier_").removesuffix("_paper")
    fields = {field.name for field in dataclasses.fields(model_class(name))} - {"parent", "name", "num_classes"}
    found = {"model.name": name}
    for leaf in LEAVES:
        attribute = leaf.removeprefix("model.")
        if leaf.startswith("model.") and attribute in fields and hasattr(model, attribute):
            value = getattr(model, attribute)
            found[leaf] = jnp.dtype(value).name if attribute == "dtype" else value
    return found | {"model.table_image_size": model.table_image_size or model.image_size}


def recipe_for(pretrained, overrides=(), labels_per_class=None):
    """The installed recipe for a data set of this size, where none was chosen.

    Args:
        pretrained: config of the pre-trained network.
        overrides: pairs (dotted leaf, text or value) that are to be given; they may name another data set.
        labels_per_class: examples per class that are trained on; None is all.

    Returns:
        (name for `load_config`, training examples).

    Raises:
        UserError: missing data.
    """
    settings = override(pretrained, [(name, value) for name, value in overrides if name.startswith("data.")]).data
    source = open_source(settings.name, settings.train_split, settings.data_dir)
    count = source.num_examples
    if labels_per_class and source.num_classes:
        count = min(count, labels_per_class * source.num_classes)
    size = next((size for size in ("large", "huge") if size in pretrained.model.name), "base")
    recipes = {SMALL: "finetune", MEDIUM: "finetune:medium"}
    return next((name for most, name in recipes.items() if count < most), f"finetune_imagenet:{size}"), count


def inherited(recipe, pretrained, model):
    """The leaves that a fine-tuning takes over from pre-training: those of the list above that are not given.

    Args:
        recipe: a config.
        pretrained: config of the pre-trained network.
        model: the network.

    Returns:
        A dictionary from dotted leaf to value.
    """
    said = given(recipe) - {"model.name"}
    own_data = "data.name" not in said or recipe.data.name == pretrained.data.name
    leaves = {name: value for name, value in flatten(pretrained).items() if name.startswith("data.") and own_data}
    leaves |= {"seed": pretrained.seed, "data.mean": pretrained.data.mean, "data.std": pretrained.data.std}
    leaves |= classifier_settings(pretrained, model)
    return {name: value for name, value in leaves.items() if name not in said}


def compose(recipe, pretrained, model, *, source=None, identity=None, labels_per_class=None, draw=0):
    """The config of a fine-tuning.

    Args:
        recipe: a config.
        pretrained: config of the pre-trained network.
        model: the network.
        source, identity: of its parameters; None: from scratch.
        labels_per_class, draw: which examples are trained on.

    Returns:
        A checked config; its `model.num_classes` is that of the data set.

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


def drawn_examples(config):
    """Indices of the training examples: `finetune.labels_per_class` of each class, else all that have a label.

    They follow from `finetune.draw` alone, so that what is compared sees the same ones.

    Raises:
        UserError: a class has fewer.
    """
    wanted = config.finetune.labels_per_class
    source = open_source(config.data.name, config.data.train_split, config.data.data_dir)
    label_N = source.labels
    if wanted is None:
        some = source.read(evenly_spaced(source.num_examples, LOOKED_AT)) if label_N is None else ()
        if some and all(example.label < 0 for example in some):
            raise UserError(
                f"data.name={config.data.name} has no labels in split {config.data.train_split!r}, and fine-tuning "
                "needs them; name a labelled one by --config.data.train_split."
            )
        return source.labelled
    if label_N is None:
        chunks = np.array_split(np.arange(source.num_examples), max(1, source.num_examples // 4096))
        label_N = np.array([example.label for chunk in chunks for example in source.read(chunk)])
    count_K = np.bincount(label_N[label_N >= 0], minlength=source.num_classes)
    if count_K.min() < wanted:
        raise UserError(
            f"--labels_per_class={wanted}: class {count_K.argmin()} of {config.data.name} has only {count_K.min()} "
            f"training examples; choose at most so many."
        )
    return np.sort(drawn(label_N, wanted, config.finetune.draw), None)


def accuracy(model, params, config, split):
    """Share of a split's examples that a classifier gets right.

    Args:
        model, params: the classifier, anywhere on the config's mesh.
        config: its `data` and `mesh`.
        split: of the data set.

    Returns:
        (fraction of one, examples).
    """
    mean, std = channel_statistics(config, model.channels)
    mesh = make_mesh(config.mesh)

    @jax.jit
    def right_of(params, batch):
        with jax.default_matmul_precision("highest" if jnp.dtype(model.dtype) == jnp.float32 else "default"):
            logits_BxC = model.apply({"params": params}, normalise(batch["image"], mean, std)).logits_BxC
        known_B = batch["valid"] & (batch["label"] >= 0)
        return jnp.sum((jnp.argmax(logits_BxC, -1) == batch["label"]) & known_B), jnp.sum(known_B)

    counts = [jax.device_get(right_of(params, batch)) for batch in split_batches(config, model, split, mesh=mesh)]
    right, seen = (int(sum(count)) for count in zip(*counts, strict=True))
    if not seen:
        raise UserError(f"split {split!r} of data.name={config.data.name} has no labels; choose one that has some.")
    return right / max(seen, 1), seen


def fine_tune(config, out, encoder=None, second_interrupt=None):
    """Trains a classifier, or resumes.

    Args:
        config: from `compose`.
        out: the folder of this training.
        encoder: parameters of the pre-trained network; None: from scratch.
        second_interrupt: see `training.run.run_training`; where it is given, the first Ctrl-C raises nothing.

    Returns:
        (training.loop.Outcome, what `finetune.json` holds); the second is None if the run was preempted.

    Raises:
        UserError: settings, data or a folder that will not do.
    """
    open_source(config.data.name, config.data.validation_split, config.data.data_dir)  # read last, looked for first
    indices = drawn_examples(config)
    count = pipeline.num_train_examples(config) if indices is None else len(indices)
    model = create_model(config.model.name, **model_overrides(config))
    model = for_platform(model, jax.default_backend(), jax.device_count())
    mean, std = channel_statistics(config, model.channels)
    mixes = bool(config.data.mixup or config.data.cutmix)
    head_only, accumulate, decay = config.finetune.head_only, config.optimizer.accumulate, config.optimizer.layer_decay
    check_batch(config.batch_size, accumulate, make_mesh(config.mesh), rules_for(config.mesh))
    if head_only:  # its batch statistics are those of the whole batch, so it cuts the batch itself
        check_head_only(config, model, encoder)
        objective, factors = HeadOnly(model, mean, std, accumulate), head_factors
        executed = override(config, [("optimizer.accumulate", 1)])
    else:
        objective = Classification(model, mean, std, config.data.label_smoothing, mixes)
        factors, executed = layer_rates(model.depth, decay) if decay is not None else None, config
    program = build_program(executed, count, model=model, objective=objective, scale_by_layer=factors)

    def make_batches(step):
        return pipeline.train_batches(
            config, model.image_size, model.channels, batch_sharding(program.mesh), start_step=step, indices=indices
        )

    outcome, interrupted = run_training(
        program,
        out,
        make_batches,
        config=config,
        begin=lambda: _begin(program, encoder),
        second_interrupt=second_interrupt,
    )
    if interrupted and outcome.preempted and second_interrupt is None:
        raise KeyboardInterrupt
    if outcome.preempted:
        return outcome, None
    params = outcome.state.params if outcome.state.ema is None else outcome.state.ema
    if head_only:
        params = fold_normalisation(model, params, config, indices)
        save_classifier(on_one_device(program.mesh)(params), model, config, epath.Path(out))
    share, seen = accuracy(model, params, config, config.data.validation_split)
    return outcome, {
        "accuracy": share,
        "train_examples": count,
        "test_examples": seen,
        "steps": outcome.step,
        "from": config.finetune.source or "scratch",
    }


def _begin(program, encoder):
    """The state at step 0, with the pre-trained encoder in its place."""
    state = program.new_state()
    if encoder is None:
        return state
    params, fresh = pretrained_start(state.params, encoder, program.model.pooling)
    if program.config.finetune.head_only:
        params = params | {"head_kernel": params["head_kernel"] * HEAD_GROWTH}
    logger.info("pre-trained encoder in place; new are %s", ", ".join(fresh))
    return with_params(state, params, program.abstract)
