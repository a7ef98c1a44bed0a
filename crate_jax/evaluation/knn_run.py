"""The nearest-neighbour classifier of a subject."""

import numpy as np

from crate_jax.evaluation import knn
from crate_jax.evaluation.feature_store import check_labels, sample, split_features
from crate_jax.evaluation.features import candidate_names
from crate_jax.evaluation.linear_probe import compact_labels, held_out_mask

CHOSEN_ON = 20_000  # training examples that the features are chosen on at most


def classify(subject, *, features=None, k=knn.NEIGHBOURS, temperature=knn.TEMPERATURE):
    """Runs the classifier.

    Args:
        subject: a `Subject`.
        features: POOLING@LAYER; None chooses, on a held-out part of the training set.
        k, temperature: neighbours that vote, and T.

    Returns:
        What `knn.json` holds.

    Raises:
        UserError: no such split or layer, no labels, one class only, fewer examples than k.
    """
    settings = subject.config.data
    features = features or choose(subject, k=k, temperature=temperature)
    train, label_N = split_features(subject, settings.train_split, (features,))
    check_labels(label_N, subject, settings.train_split)
    test, test_label_M = split_features(subject, settings.validation_split, (features,))
    check_labels(test_label_M, subject, settings.validation_split)
    train_N, test_M, _ = compact_labels(label_N, test_label_M)
    predicted_M = knn.predict(train[features], train_N, test[features], k=k, temperature=temperature)
    return {
        "accuracy": float(np.mean(predicted_M == test_M)),
        "k": k,
        "temperature": temperature,
        "features": features,
        "train_examples": len(train_N),
        "test_examples": len(test_M),
        "of": subject.source,
    }


def choose(subject, *, k, temperature):
    """The features with the best accuracy on a held-out part of the training set.

    Raises:
        UserError: as `classify`.
    """
    settings = subject.config.data
    names = tuple(candidate_names(subject.model.depth))
    train, label_N = split_features(
        subject, settings.train_split, names, indices=sample(settings, settings.train_split, CHOSEN_ON)
    )
    check_labels(label_N, subject, settings.train_split)
    held_N = held_out_mask(label_N)
    accuracy = {}
    for name, rows_NxG in train.items():
        predicted = knn.predict(rows_NxG[~held_N], label_N[~held_N], rows_NxG[held_N], k=k, temperature=temperature)
        accuracy[name] = np.mean(predicted == label_N[held_N])
    return max(accuracy, key=accuracy.get)
