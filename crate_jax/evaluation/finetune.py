"""Fine-tuning as a function: on all labels, or on a few beside training from scratch. Results as `Result`.

With few labels pre-training shows its worth: fine-tuned, from scratch, and raw pixels, on the same examples; means over
draws of K examples a class. Every training is a run of its own and resumes by itself. Where a recipe trains the head
alone (MAE's probe), "from scratch" is the same head on the untrained encoder.
"""

import dataclasses
import logging
import pathlib

import numpy as np

from crate_jax.config import flatten, override
from crate_jax.errors import UserError, check_whole
from crate_jax.evaluation.accuracy_figures import curve_figure, few_labels_figure
from crate_jax.evaluation.feature_store import RAW, labelled, split_features
from crate_jax.evaluation.fine_tuning import compose, drawn_examples, fine_tune, recipe_for
from crate_jax.evaluation.probe import choose, compact_labels
from crate_jax.evaluation.results import Result, read_result
from crate_jax.evaluation.solver import fit
from crate_jax.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

DRAWS = 3
MOST_DRAWS = 1000


def chosen_recipe(pretrained, overrides=(), labels_per_class=None):
    """`recipe_for`, said in the log: the name of an installed config."""
    name, examples = recipe_for(pretrained, overrides, labels_per_class)
    logger.info("recipe for %s training examples: --config=%s", f"{examples:,}", name)
    return name


def folder_name(recipe):
    """The recipe's name as a folder's: finetune_imagenet:large and path/to/mine.py:large end in _large."""
    if not isinstance(recipe, str):
        return "finetune"
    name, _, argument = recipe.partition(":") if ":" in pathlib.PurePath(recipe).name else (recipe, "", "")
    return pathlib.PurePath(name).stem + (f"_{argument}" if argument else "")


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
        subject: a `Subject`.
        recipe: config of the fine-tuning.
        out: folder of the training, an `epath.Path`; the same one resumes it.
        labels_per_class: examples of each class, also trained on from scratch; None is all examples.
        draws: how often those are drawn; None is `DRAWS`.
        from_scratch: without the pre-training (all examples).
        second_interrupt: as `fine_tune`.

    Returns:
        A `Result` whose numbers are what `finetune.json` holds, or `few_labels.json` (`by_labels`: every number of
        labels tried with these parameters on these data); None if the run was preempted.

    Raises:
        UserError: as `check_flags` and `fine_tune`.
    """
    check_flags(labels_per_class, draws, from_scratch)
    if labels_per_class is not None:
        return _few(subject, recipe, out, labels_per_class, DRAWS if draws is None else draws, second_interrupt)
    begin = {"source": subject.source, "identity": subject.identity} if not from_scratch else {}
    config = compose(recipe, subject.config, subject.model, **begin)
    outcome, results = fine_tune(config, out, None if from_scratch else subject.params, second_interrupt)
    if outcome.preempted:
        return None
    results |= _stamp(subject, config, results["test_examples"])
    return Result("finetune", results, {}, {"finetune": lambda: curve_figure(RunFolder(out).metrics, results)})


def _few(subject, recipe, out, labels_per_class, draws, second_interrupt):
    head_only = recipe.finetune.head_only
    starts = {"pretrained": subject, "from_scratch": subject.untrained() if head_only else None}
    scores = {"pretrained": [], "from_scratch": [], "raw_pixels": []}
    for draw in range(draws):
        for kind, begun in starts.items():
            begin = {"source": begun.source, "identity": begun.identity} if begun else {}
            config = compose(
                recipe, subject.config, subject.model, labels_per_class=labels_per_class, draw=draw, **begin
            )
            folder = out / f"labels_{labels_per_class}" / f"draw_{draw}" / kind
            outcome, tested = fine_tune(config, folder, begun.params if begun else None, second_interrupt)
            if outcome.preempted:
                return None
            scores[kind].append(tested["accuracy"])
        scores["raw_pixels"].append(raw_pixels(subject, config))
    results = {kind: float(np.mean(values)) for kind, values in scores.items()}
    results |= {"labels_per_class": labels_per_class, "draws": draws, "by_draw": scores}
    results |= {"test_examples": tested["test_examples"], "head_only": head_only}
    stamp = _stamp(subject, config, tested["test_examples"])
    earlier = read_result(subject.out / "few_labels.json") or {}
    if any(earlier.get(key) != stamp[key] for key in ("data", "source")):
        earlier = {}
    by_labels = earlier.get("by_labels", {}) | {str(labels_per_class): dict(results)}
    results |= {"by_labels": dict(sorted(by_labels.items(), key=lambda one: int(one[0])))} | stamp
    return Result("few_labels", results, {}, {"few_labels": lambda: few_labels_figure(results)})


def raw_pixels(subject, config):
    """Accuracy of logistic regression on the pixels of the drawn examples; C is chosen among them.

    Args:
        subject: a `Subject`.
        config: from `compose`; its data set, which need not be the one of the subject's pre-training.
    """
    settings = config.data
    leaves = [(name, value) for name, value in flatten(config).items() if name.startswith("data.")]
    subject = dataclasses.replace(subject, config=override(subject.config, leaves))
    train, label_N = split_features(subject, settings.train_split, (RAW,), indices=drawn_examples(config))
    test, test_label_M = split_features(
        subject, settings.validation_split, (RAW,), indices=labelled(settings, settings.validation_split)
    )
    train_N, test_M, count = compact_labels(label_N, test_label_M)
    chosen = choose(train, train_N, count)
    return fit(train[RAW], train_N, chosen.C, count).accuracy(test[RAW], test_M)


def _stamp(subject, config, examples):
    return dataclasses.replace(subject, config=config).stamp(config.data.validation_split, examples)
