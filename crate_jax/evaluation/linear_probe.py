"""The linear probe: logistic regression on frozen features, with nothing chosen on the test set.

Layer, pooling and regularisation are chosen on a held-out part of the training set, then the classifier is fitted on
all of it. A CRATE-MAE's best features are in the middle of its encoder, so the layer is part of the question; the
untrained network and the raw pixels get the same choice.

Neighbours in a data set's order are often alike (crops of one photograph, frames of one film), so the held-out part is
a run of neighbours of each class, the last fifth, not a random one. Where there are few examples a fifth says little,
and every fifth is held out in turn.
"""

import dataclasses
from typing import Any

import numpy as np

from crate_jax.errors import UserError
from crate_jax.evaluation.logistic_regression import LogisticRegression, predict, probabilities, standardise

REGULARISATIONS = (1e-3, 1e-2, 1e-1, 1.0)  # C, on standardised features
HELD_OUT = 0.2
FEW = 4000  # training examples; with fewer, every fifth is held out in turn
AT_ONCE = 8192  # test examples
ROUGH = {"tolerance": 1e-3, "max_iterations": 100}  # enough to compare; the last fit goes to convergence


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the held-out part decided.

    Attributes:
        features: name of the features.
        C: inverse regularisation, as scikit-learn's, on standardised features.
        accuracy: on the held-out part, a fraction of one.
        tried: dictionary from every name that was tried to its accuracy there, at its best C.
    """

    features: str
    C: float
    accuracy: float
    tried: dict = dataclasses.field(default_factory=dict)


def held_out_mask(label_N, fraction=HELD_OUT):
    """True for the last examples of each class, in the data set's order; a class keeps at least one to train on.

    Raises:
        UserError: one class only, or no class with two examples.
    """
    classes = np.unique(label_N)
    if len(classes) < 2:
        raise UserError(f"the training examples have {len(classes)} class; a classifier needs two or more.")
    held_N = np.zeros(len(label_N), bool)
    for label in classes:
        members = np.flatnonzero(label_N == label)
        held_N[members[len(members) - int(np.ceil(fraction * (len(members) - 1))) :]] = True
    if not held_N.any():
        raise UserError("every class has a single training example; a probe needs two or more of some.")
    return held_N


def held_out_masks(label_N, few=FEW):
    """The held-out parts that a choice averages over: every fifth of each class in turn; of many examples the last.

    Raises:
        UserError: see `held_out_mask`.
    """
    last_N = held_out_mask(label_N)
    folds = round(1 / HELD_OUT)
    if len(label_N) > few or np.bincount(label_N).min() < folds:
        return [last_N]
    masks = np.zeros((folds, len(label_N)), bool)
    for label in np.unique(label_N):
        for mask, part in zip(masks, np.array_split(np.flatnonzero(label_N == label), folds), strict=True):
            mask[part] = True
    return list(masks)


def choose(candidates, label_N, num_classes, regularisations=REGULARISATIONS):
    """Name and C with the best accuracy on a held-out part of the training set.

    Every name is tried at every C: averages want a weak regularisation, concatenated cells a strong one, so a
    comparison at one C would choose the pooling by the C.

    Args:
        candidates: dictionary from name to features_NxG of the training set.
        label_N: integers, 0 <= label < num_classes.
        num_classes: K.
        regularisations: the values of C, ascending.

    Returns:
        A `Choice`; of equals, the one tried first.

    Raises:
        UserError: see `held_out_mask`.
    """
    masks, found = held_out_masks(label_N), {}
    for name, features_NxG in candidates.items():
        for held_N in masks:
            x_NxG, _, _ = standardise(features_NxG, ~held_N)
            held_x, problem = x_NxG[np.flatnonzero(held_N)], LogisticRegression(x_NxG, label_N, ~held_N, num_classes)
            for regularisation in regularisations:  # each from the solution before
                predicted = np.asarray(predict(problem.fit(regularisation, **ROUGH), held_x))
                right = float(np.sum(predicted == label_N[held_N]))
                found[name, regularisation] = found.get((name, regularisation), 0.0) + right
    best, held = max(found, key=found.get), float(sum(map(np.sum, masks)))
    tried = {name: max(found[name, one] for one in regularisations) / held for name in candidates}
    return Choice(best[0], best[1], found[best] / held, tried)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A fitted classifier of features as they come, not standardised.

    Attributes:
        solution: of `LogisticRegression.fit`.
        mean_G, scale_G: of `standardise`.
    """

    solution: dict
    mean_G: Any
    scale_G: Any

    def probabilities(self, x_NxG):
        """What it takes each example for: NxK, rows sum to one."""
        x_NxG = (np.asarray(x_NxG, np.float32) - self.mean_G) * self.scale_G
        return np.asarray(probabilities(self.solution, x_NxG))

    def accuracy(self, x_NxG, label_N):
        """Share of the examples that it gets right."""
        right = 0
        for first in range(0, len(label_N), AT_ONCE):
            rows_MxG = np.asarray(x_NxG[first : first + AT_ONCE], np.float32)
            predicted_M = np.asarray(predict(self.solution, (rows_MxG - self.mean_G) * self.scale_G))
            right += int(np.sum(predicted_M == label_N[first : first + AT_ONCE]))
        return right / len(label_N)


def fit(train_NxG, train_label_N, regularisation, num_classes):
    """A classifier fitted to convergence.

    Args:
        train_NxG, train_label_N: the training set; labels from 0.
        regularisation: C.
        num_classes: K.

    Returns:
        A `Classifier`.
    """
    every_N = np.ones(len(train_label_N), bool)
    x_NxG, mean_G, scale_G = standardise(train_NxG, every_N)
    problem = LogisticRegression(x_NxG, train_label_N, every_N, num_classes)
    for weaker in (c for c in REGULARISATIONS if c < regularisation):
        problem.fit(weaker, **ROUGH)
    return Classifier(problem.fit(regularisation), mean_G, scale_G)


def fit_and_score(train_NxG, train_label_N, test_MxG, test_label_M, regularisation, num_classes):
    """Accuracy on the test set of a classifier fitted on the whole training set.

    Args:
        train_NxG, train_label_N: the training set; labels from 0.
        test_MxG, test_label_M: the test set; a label that the training set does not have counts as wrong.
        regularisation: C.
        num_classes: K.

    Returns:
        A fraction of one.
    """
    return fit(train_NxG, train_label_N, regularisation, num_classes).accuracy(test_MxG, test_label_M)


def compact_labels(train_label_N, test_label_M):
    """Labels numbered by the classes that the training set has; -1 for a test label that it has not."""
    classes, train_N = np.unique(train_label_N, return_inverse=True)
    place_M = np.searchsorted(classes, test_label_M).clip(0, len(classes) - 1)
    return train_N, np.where(classes[place_M] == test_label_M, place_M, -1), len(classes)
