"""Fine-tuning: a classifier on a pre-trained encoder, through the train step, loop and checkpoints of pre-training.

On all labels, or on a few, where pre-training shows its worth: fine-tuned, from scratch, and raw pixels, on the same
examples; means over draws of K examples a class. Every training is a run of its own and resumes by itself. Where a
recipe trains the head alone (MAE's probe), "from scratch" is the same head on the untrained encoder.
"""

import contextlib
import dataclasses
import functools
import logging
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from crate_jax.config import flatten, model_overrides, override
from crate_jax.data import pipeline
from crate_jax.data.sources import open_held_out, open_source
from crate_jax.distributed.mesh import make_mesh
from crate_jax.distributed.sharding import batch_sharding, check_batch, replicated, rules_for
from crate_jax.errors import UserError, check_whole
from crate_jax.evaluation.accuracy_figures import curve_figure, few_labels_figure
from crate_jax.evaluation.classification import (
    EPSILON,
    Classification,
    HeadOnly,
    head_factors,
    layer_rates,
    pretrained_start,
)
from crate_jax.evaluation.feature_store import NoLabels, evenly_spaced, labelled_rows, split_rows, sum_over
from crate_jax.evaluation.features import RAW, exact_products
from crate_jax.evaluation.recipe import check_head_only, compose
from crate_jax.evaluation.results import Result, read_result
from crate_jax.evaluation.selection import choose, compact_labels, drawn
from crate_jax.evaluation.solver import fit
from crate_jax.interop.checkpoint_file import MODEL, ParamsCheckpoint, write_folder
from crate_jax.models.registry import create_model, for_platform
from crate_jax.training.objective import channel_statistics, normalise
from crate_jax.training.observers import on_one_device
from crate_jax.training.program import build_program
from crate_jax.training.run import run_training
from crate_jax.training.run_folder import RunFolder
from crate_jax.training.start import with_params

logger = logging.getLogger(__name__)

DRAWS, MOST_DRAWS = 3, 1000
# MAE initialises the head of a probe with deviation 0.01, that of fine-tuning with 2e-5: LARS steps go by its norm
HEAD_GROWTH = 500.0
LOOKED_AT = 64  # examples, for labels, of a data set whose labels are known when it is read


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
            raise NoLabels(config.data, config.data.train_split)
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


def _accuracy(model, params, config, split):
    """(share of a split's examples that a classifier gets right, how many have a label)."""
    mean, std = channel_statistics(config, model.channels)

    @jax.jit
    def right_of(params, batch):
        with exact_products(model):
            logits_BxC = model.apply({"params": params}, normalise(batch["image"], mean, std)).logits_BxC
        known_B = batch["valid"] & (batch["label"] >= 0)
        return jnp.sum((jnp.argmax(logits_BxC, -1) == batch["label"]) & known_B), jnp.sum(known_B)

    mesh = make_mesh(config.mesh)
    right, seen = sum_over(lambda batch: right_of(params, batch), config, model, split, mesh=mesh)
    if not seen:
        raise NoLabels(config.data, split)
    return float(right / seen), int(seen)


def _folded(model, params, config, indices):
    """Parameters of a plain classifier: the mean and variance of the training examples folded into the head."""
    (mean, std), mesh = channel_statistics(config, model.channels), make_mesh(config.mesh)

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def sums(params, batch):
        latent_BxTxD = model.apply({"params": params}, normalise(batch["image"], mean, std)).latent_BxTxD
        token_BxD = jnp.where(batch["valid"][:, None], latent_BxTxD[:, 0].astype(jnp.float32), 0)
        return jnp.sum(token_BxD, 0), jnp.sum(token_BxD**2, 0), jnp.sum(batch["valid"])

    options, split = {"mesh": mesh, "indices": indices}, config.data.train_split
    head = on_one_device(mesh)({name: params[name] for name in ("head_kernel", "head_bias")})
    sum_D, square_D, count = sum_over(lambda batch: sums(params, batch), config, model, split, **options)
    mean_D = sum_D / count
    deviation_D = np.sqrt(np.maximum(square_D / count - mean_D**2, 0) + EPSILON)
    kernel_DxC = np.asarray(head["head_kernel"], np.float64) / deviation_D[:, None]
    bias_C = np.asarray(head["head_bias"], np.float64) - mean_D @ kernel_DxC
    placed = {"head_kernel": kernel_DxC, "head_bias": bias_C}
    return params | {
        name: jax.device_put(value.astype(np.float32), params[name].sharding) for name, value in placed.items()
    }


def fine_tune(subject, recipe, out, begun, second_interrupt, **examples):
    """Trains a classifier, or resumes: (its config, what `finetune.json` holds or None if it was preempted).

    Args:
        subject, recipe, out, second_interrupt: as of `finetune`.
        begun: the `Subject` whose encoder it begins with; None: from scratch.
        examples: `labels_per_class` and `draw` of `compose`.
    """
    begin = {"source": begun.source, "identity": begun.identity} if begun else {}
    config, encoder = compose(recipe, subject.config, subject.model, **begin, **examples), begun and begun.params
    open_held_out(config.data, classify=True)  # read last, looked for first
    indices = drawn_examples(config)
    count = pipeline.num_train_examples(config) if indices is None else len(indices)
    model = create_model(config.model.name, **model_overrides(config))
    model = for_platform(model, jax.default_backend(), jax.device_count(), jax.devices()[0])
    mean, std = channel_statistics(config, model.channels)
    head_only, accumulate, decay = config.finetune.head_only, config.optimizer.accumulate, config.optimizer.layer_decay
    check_batch(config.batch_size, accumulate, make_mesh(config.mesh), rules_for(config.mesh))
    if head_only:  # its batch statistics are those of the whole batch, so it cuts the batch itself
        check_head_only(config, model, encoder)
        objective, factors = HeadOnly(model, mean, std, accumulate), head_factors
        executed = override(config, [("optimizer.accumulate", 1)])
    else:
        mixes = bool(config.data.mixup or config.data.cutmix)
        objective = Classification(model, mean, std, config.data.label_smoothing, mixes)
        factors, executed = layer_rates(model.depth, decay) if decay is not None else None, config
    program = build_program(executed, count, model=model, objective=objective, scale_by_layer=factors)
    sharding = batch_sharding(program.mesh)
    make_batches = functools.partial(
        pipeline.train_batches, config, model.image_size, model.channels, sharding, indices=indices
    )
    with _folder_named_out():
        outcome, interrupted = run_training(
            program, out, make_batches, config=config, begin=lambda: _begin(program, encoder),
            second_interrupt=second_interrupt,
        )  # fmt: skip
    if interrupted and outcome.preempted and second_interrupt is None:
        raise KeyboardInterrupt
    if outcome.preempted:
        return config, None
    params = outcome.state.params if outcome.state.ema is None else outcome.state.ema
    if head_only:
        params = _folded(model, params, config, indices)
        _save_classifier(on_one_device(program.mesh)(params), model, config, RunFolder(out).classifier)
    share, seen = _accuracy(model, params, config, config.data.validation_split)
    results = {"accuracy": share, "train_examples": count, "test_examples": seen}
    return config, results | {"steps": outcome.step, "from": config.finetune.source or "scratch"}


@contextlib.contextmanager
def _folder_named_out():
    """Errors of a training name its folder by the flag of a fine-tuning: --workdir is the pre-training's."""
    try:
        yield
    except UserError as error:
        error.args = (str(error).replace("--workdir", "--out"), *error.args[1:])
        raise


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


def _save_classifier(params, model, config, folder):
    """Writes the folded classifier beside the checkpoints, which hold the head of normalised features that training
    resumes with. Opening the workdir gives this one.
    """
    if jax.process_index():
        return
    checkpoint = ParamsCheckpoint(model, params, config.model.name, model_overrides(config))
    with tempfile.TemporaryDirectory() as draft:
        write_folder(checkpoint, draft)
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(epath.Path(draft).iterdir(), key=lambda file: file.name == MODEL):  # what names it is last
            file.copy(folder / file.name, overwrite=True)


def check_flags(labels_per_class, draws, from_scratch):
    """Refuses flags that do not go together.

    Raises:
        UserError: see above; or numbers out of range.
    """
    if labels_per_class is None:
        if draws is not None:
            raise UserError(f"--draws={draws} counts draws of few labels; give --labels_per_class=K as well.")
        return
    check_whole("--labels_per_class", labels_per_class, 1)
    check_whole("--draws", DRAWS if draws is None else draws, 1, MOST_DRAWS)
    if from_scratch:
        raise UserError("--from_scratch does not go with --labels_per_class, which trains from scratch too; drop one.")


def finetune(subject, recipe, out, *, labels_per_class=None, draws=None, from_scratch=False, second_interrupt=None):
    """Fine-tunes.

    Args:
        recipe: config of the fine-tuning.
        out: folder of the training, an `epath.Path`; the same one resumes it.
        labels_per_class: examples of each class, also trained on from scratch; None is all examples.
        draws: how often those are drawn; None is `DRAWS`.
        from_scratch: without the pre-training (all examples).
        second_interrupt: see `training.run.run_training`; where it is given, the first Ctrl-C raises nothing.

    Returns:
        A `Result` whose numbers are what `finetune.json` holds, or `few_labels.json` (`by_labels`: every number of
        labels tried with these parameters on these data); None if the run was preempted.

    Raises:
        UserError: as `check_flags`; settings, data or a folder that will not do.
    """
    check_flags(labels_per_class, draws, from_scratch)
    if labels_per_class is not None:
        return _few(subject, recipe, out, labels_per_class, DRAWS if draws is None else draws, second_interrupt)
    config, results = fine_tune(subject, recipe, out, None if from_scratch else subject, second_interrupt)
    if results is None:
        return None
    results |= _stamp(subject, config, results["test_examples"])
    return Result("finetune", results, {}, {"finetune": lambda: curve_figure(RunFolder(out).metrics, results)})


def _few(subject, recipe, out, labels_per_class, draws, second_interrupt):
    """Few labels: fine-tuned, from scratch and raw pixels, on several draws."""
    head_only = recipe.finetune.head_only
    starts = {"pretrained": subject, "from_scratch": subject.untrained() if head_only else None}
    scores = {"pretrained": [], "from_scratch": [], "raw_pixels": []}
    for draw in range(draws):
        for kind, begun in starts.items():
            folder = out / f"labels_{labels_per_class}" / f"draw_{draw}" / kind
            examples = {"labels_per_class": labels_per_class, "draw": draw}
            config, tested = fine_tune(subject, recipe, folder, begun, second_interrupt, **examples)
            if tested is None:
                return None
            scores[kind].append(tested["accuracy"])
        scores["raw_pixels"].append(raw_pixels(subject, config))
    results = {kind: float(np.mean(values)) for kind, values in scores.items()}
    results |= {"labels_per_class": labels_per_class, "draws": draws, "by_draw": scores}
    results |= {"test_examples": tested["test_examples"], "head_only": head_only}
    stamp = _stamp(subject, config, tested["test_examples"])
    earlier = read_result(subject.out / f"few_labels{subject.suffix('few_labels', stamp['data'])}.json") or {}
    same = all(earlier.get(key) == stamp[key] for key in ("data", "source"))
    by_labels = (earlier.get("by_labels", {}) if same else {}) | {str(labels_per_class): dict(results)}
    results |= {"by_labels": dict(sorted(by_labels.items(), key=lambda one: int(one[0])))} | stamp
    return Result("few_labels", results, {}, {"few_labels": lambda: few_labels_figure(results)})


def raw_pixels(subject, config):
    """Accuracy of logistic regression on the pixels of the drawn examples; C is chosen among them.

    The data set is that of `config` (from `compose`), which need not be the one of the subject's pre-training.
    """
    settings = config.data
    leaves = [(name, value) for name, value in flatten(config).items() if name.startswith("data.")]
    subject = dataclasses.replace(subject, config=override(subject.config, leaves))
    train = split_rows(subject, settings.train_split, (RAW,), indices=drawn_examples(config))
    test = labelled_rows(subject, settings.validation_split, (RAW,))
    train_N, test_M, count = compact_labels(train.label_N, test.label_N)
    chosen = choose(train.features, train_N, count)
    return fit(train.features[RAW], train_N, chosen.C, count).accuracy(test.features[RAW], test_M)


def _stamp(subject, config, examples):
    return dataclasses.replace(subject, config=config).stamp(config.data.validation_split, examples)
