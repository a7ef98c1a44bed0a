"""The linear probe with few labels: K examples a class are drawn, C is chosen among them, no other label is seen.

Layer and pooling are those of the full probe: among five examples a class there is nothing to choose them by. The first
five of a draw's ten are the draw of five, and every network and the raw pixels get the same examples.
"""

import numpy as np

from crate_jax.errors import UserError
from crate_jax.evaluation.linear_probe import REGULARISATIONS, ROUGH, Classifier
from crate_jax.evaluation.logistic_regression import BY_VALUES, LogisticRegression, in_their_span, predict, standardise

SHOTS = (5, 10)
DRAWS = 5
FOLDS = 5


def drawn(label_N, most, draw):
    """Examples of each class, in the order of drawing.

    Args:
        label_N: integers, 0 <= label < K.
        most: examples a class.
        draw: number of the draw, its seed.

    Returns:
        index_KxM.
    """
    random = np.random.RandomState(draw)
    return np.stack([random.permutation(np.flatnonzero(label_N == label))[:most] for label in range(label_N.max() + 1)])


def possible(label_N, shots):
    """The numbers of examples a class that there are.

    Args:
        label_N: integers, 0 <= label < K.
        shots: wanted; None is `SHOTS`, as far as they go.

    Raises:
        UserError: a class has fewer than one that was asked for.
    """
    fewest = int(np.bincount(label_N).min())
    for wanted in shots or ():
        if wanted < 1 or wanted > fewest:
            raise UserError(f"--shots={wanted}: the smallest class has {fewest} training examples; give 1 to {fewest}.")
    return tuple(shots or (one for one in SHOTS if one <= fewest))


def few_shot(train_NxG, train_label_N, test_MxG, test_label_M, num_classes, *, shots, draws=DRAWS):
    """Accuracies on the test set.

    Args:
        train_NxG, train_label_N: the training set; labels from 0, all that there are.
        test_MxG, test_label_M: the test set.
        num_classes: K.
        shots: examples a class, several numbers.
        draws: how often they are drawn.

    Returns:
        Dictionary from shots to a list of accuracies, one a draw.
    """
    found = {one: [] for one in shots}
    for draw in range(draws if shots else 0):
        index_KxM = drawn(train_label_N, max(shots), draw)
        # rows of the largest number of shots, and weights, for all of them: one compilation
        index_M = np.sort(index_KxM, None)
        rank_M = np.full(len(index_M), max(shots))
        rank_M[np.searchsorted(index_M, index_KxM)] = np.arange(max(shots))
        for one in shots:
            classifier = _fit(np.asarray(train_NxG[index_M]), train_label_N[index_M], rank_M, one, num_classes)
            found[one].append(classifier.accuracy(test_MxG, test_label_M))
    return found


def _fit(rows_MxG, label_M, rank_M, shots, num_classes):
    """A classifier of the examples of rank below `shots`; C by a part of each class held out in turn.

    Means and deviations are those of all of them, held out or not: they need no labels.
    """
    drawn_M = rank_M < shots
    x_MxG, mean_G, scale_G = standardise(rows_MxG, drawn_M)
    basis, x_MxG = in_their_span(x_MxG)  # once, not for each part held out
    folds, right = min(FOLDS, shots), np.zeros(len(REGULARISATIONS))
    for fold in range(folds if folds > 1 else 0):
        kept_M = drawn_M & (rank_M % folds != fold)
        problem = LogisticRegression(x_MxG, label_M, kept_M, num_classes)
        for number, regularisation in enumerate(REGULARISATIONS):  # each from the solution before
            predicted_M = np.asarray(predict(problem.fit(regularisation, **ROUGH), x_MxG))
            right[number] += np.sum((predicted_M == label_M) & drawn_M & ~kept_M)
    problem = LogisticRegression(x_MxG, label_M, drawn_M, num_classes)
    solution = problem.fit(REGULARISATIONS[int(np.argmax(right))], tolerance=BY_VALUES)
    if basis is not None:
        solution = solution | {"kernel": basis @ solution["kernel"]}
    return Classifier(solution, mean_G, scale_G)
