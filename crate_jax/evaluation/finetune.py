"""Fine-tuning as a function: on all labels, or on a few beside training from scratch. Results as `Result`."""

import dataclasses
import logging
import pathlib

from crate_jax.evaluation.accuracy_figures import curve_figure, few_labels_figure
from crate_jax.evaluation.few_labels import few_labels
from crate_jax.evaluation.fine_tuning import compose, fine_tune, recipe_for
from crate_jax.evaluation.results import Result, read_result
from crate_jax.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


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


def full(subject, recipe, out, *, from_scratch=False, second_interrupt=None):
    """Fine-tunes on all labels.

    Args:
        subject: a `Subject`.
        recipe: config of the fine-tuning.
        out: folder of the training; the same one resumes it.
        from_scratch: without the pre-training.
        second_interrupt: as `fine_tune`.

    Returns:
        A `Result` whose numbers are what `finetune.json` holds, or None if the run was preempted.

    Raises:
        UserError: as `fine_tune`.
    """
    begin = {"source": subject.source, "identity": subject.identity} if not from_scratch else {}
    config = compose(recipe, subject.config, subject.model, **begin)
    outcome, results = fine_tune(config, out, None if from_scratch else subject.params, second_interrupt)
    if outcome.preempted:
        return None
    results |= _stamp(subject, config, results["test_examples"])
    return Result("finetune", results, {}, {"finetune": lambda: curve_figure(RunFolder(out).metrics, results)})


def few(subject, recipe, out, labels_per_class, draws, *, second_interrupt=None):
    """Fine-tunes on few labels, from the network and from scratch.

    Args:
        subject, recipe, out: see `full`.
        labels_per_class: examples of each class.
        draws: how often they are drawn.
        second_interrupt: as `fine_tune`.

    Returns:
        A `Result` whose numbers are what `few_labels.json` holds (`by_labels`: every number of labels tried with these
        parameters on these data), or None if the run was preempted.

    Raises:
        UserError: as `fine_tune`.
    """
    results = few_labels(subject, recipe, out / f"labels_{labels_per_class}", labels_per_class, draws, second_interrupt)
    if results is None:
        return None
    config = compose(recipe, subject.config, subject.model, labels_per_class=labels_per_class)
    stamp = _stamp(subject, config, results["test_examples"])
    earlier = read_result(subject.out / "few_labels.json") or {}
    if any(earlier.get(key) != stamp[key] for key in ("data", "source")):
        earlier = {}
    by_labels = earlier.get("by_labels", {}) | {str(labels_per_class): dict(results)}
    results |= {"by_labels": dict(sorted(by_labels.items(), key=lambda one: int(one[0])))} | stamp
    return Result("few_labels", results, {}, {"few_labels": lambda: few_labels_figure(results)})


def _stamp(subject, config, examples):
    return dataclasses.replace(subject, config=config).stamp(config.data.validation_split, examples)
