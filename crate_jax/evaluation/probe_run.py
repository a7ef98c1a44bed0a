"""The linear probe of a subject, of the untrained network and of raw pixels, each with its own choice."""

import logging

from crate_jax.evaluation.feature_store import RAW, check_labels, sample, split_features
from crate_jax.evaluation.features import candidate_names
from crate_jax.evaluation.linear_probe import choose, compact_labels, fit_and_score

logger = logging.getLogger(__name__)

CHOSEN_ON = 20_000  # training examples that the choice is made on at most; the last fit sees all


def probe(subject, *, features=None, baselines=True):
    """Runs the probe.

    Args:
        subject: a `Subject`.
        features: POOLING@LAYER; None chooses.
        baselines: also the untrained network and raw pixels.

    Returns:
        What `probe.json` holds.

    Raises:
        UserError: no such split or layer, no labels, one class only.
    """
    names = (features,) if features else tuple(candidate_names(subject.model.depth))
    results = probe_one(subject, names)
    if baselines:
        for prefix, one, its_names in (("untrained", subject.untrained(), names), ("raw_pixel", subject, (RAW,))):
            outcome = probe_one(one, its_names)
            results |= {f"{prefix}_{key}": outcome[key] for key in ("accuracy", "features", "C")}
    settings = subject.config.data
    return results | {
        "train_split": settings.train_split,
        "test_split": settings.validation_split,
        "of": subject.source,
    }


def probe_one(subject, names):
    """The probe of one network.

    Args:
        subject: a `Subject`.
        names: the features to choose from.

    Returns:
        A dictionary: `accuracy` on the test split, `features`, `C`, `held_out_accuracy`, `train_examples`,
        `test_examples`.
    """
    settings = subject.config.data
    indices = sample(settings, settings.train_split, CHOSEN_ON)
    train, label_N = split_features(subject, settings.train_split, names, indices=indices)
    check_labels(label_N, subject, settings.train_split)
    compact_N, _, num_classes = compact_labels(label_N, label_N)
    chosen = choose(train, compact_N, num_classes)
    logger.info("%s: %s at C = %g, %.1f %% held out", subject.source, chosen.features, chosen.C, 100 * chosen.accuracy)
    if indices is not None:
        train, label_N = split_features(subject, settings.train_split, (chosen.features,))
    test, test_label_M = split_features(subject, settings.validation_split, (chosen.features,))
    check_labels(test_label_M, subject, settings.validation_split)
    train_N, test_M, num_classes = compact_labels(label_N, test_label_M)
    accuracy = fit_and_score(
        train[chosen.features], train_N, test[chosen.features], test_M, chosen.C, num_classes=num_classes
    )
    return {
        "accuracy": accuracy,
        "features": chosen.features,
        "C": chosen.C,
        "held_out_accuracy": chosen.accuracy,
        "train_examples": len(label_N),
        "test_examples": len(test_label_M),
    }
