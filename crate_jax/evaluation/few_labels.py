"""Few labels, where pre-training shows its worth: fine-tuned, from scratch, and raw pixels, on the same few examples.

Means over draws of K examples a class; every training is a run of its own and resumes by itself. Where a recipe
trains the head alone (MAE's probe), "from scratch" is the same head on the untrained encoder.
"""

import dataclasses

import numpy as np

from crate_jax.config import flatten, override
from crate_jax.evaluation.feature_store import RAW, labelled, split_features
from crate_jax.evaluation.fine_tuning import compose, drawn_examples, fine_tune
from crate_jax.evaluation.probe import choose, compact_labels
from crate_jax.evaluation.solver import fit


def few_labels(subject, recipe, out, labels_per_class, draws, second_interrupt=None):
    """Compares a pre-trained encoder with the same network from scratch.

    Args:
        subject: a `Subject`.
        recipe: config of the fine-tuning.
        out: an `epath.Path`; each training gets a folder in it.
        labels_per_class: K.
        draws: how many times K examples a class are drawn.
        second_interrupt: as `fine_tune`.

    Returns:
        What `few_labels.json` holds, or None if preempted.

    Raises:
        UserError: as `fine_tune`.
    """
    head_only = recipe.finetune.head_only
    starts = {"pretrained": subject, "from_scratch": subject.untrained() if head_only else None}
    scores = {"pretrained": [], "from_scratch": [], "raw_pixels": []}
    for draw in range(draws):
        for kind, begun in starts.items():
            config = compose(
                recipe,
                subject.config,
                subject.model,
                source=begun.source if begun else None,
                identity=begun.identity if begun else None,
                labels_per_class=labels_per_class,
                draw=draw,
            )
            folder, params = out / f"draw_{draw}" / kind, begun.params if begun else None
            outcome, results = fine_tune(config, folder, params, second_interrupt)
            if outcome.preempted:
                return None
            scores[kind].append(results["accuracy"])
        scores["raw_pixels"].append(raw_pixels(subject, config))
    means = {kind: float(np.mean(values)) for kind, values in scores.items()}
    return means | {
        "labels_per_class": labels_per_class,
        "draws": draws,
        "by_draw": scores,
        "test_examples": results["test_examples"],
        "head_only": head_only,
    }


def raw_pixels(subject, config):
    """Accuracy of logistic regression on the pixels of the drawn examples; C is chosen among them.

    Args:
        subject: a `Subject`.
        config: from `compose`; its data set, which need not be the one of the subject's pre-training.
    """
    settings = config.data
    subject = dataclasses.replace(subject, config=override(subject.config, _data_leaves(config)))
    train, label_N = split_features(subject, settings.train_split, (RAW,), indices=drawn_examples(config))
    test, test_label_M = split_features(
        subject, settings.validation_split, (RAW,), indices=labelled(settings, settings.validation_split)
    )
    train_N, test_M, count = compact_labels(label_N, test_label_M)
    chosen = choose(train, train_N, count)
    return fit(train[RAW], train_N, chosen.C, count).accuracy(test[RAW], test_M)


def _data_leaves(config):
    return [(name, value) for name, value in flatten(config).items() if name.startswith("data.")]
