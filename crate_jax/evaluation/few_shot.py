"""The linear probe with few labels: layer, pooling and C are chosen within K examples per class.

No other label is seen. The first five of a draw's ten are the draw of five, and every network and the raw pixels get
the same examples.
"""

import numpy as np

from crate_jax.errors import UserError, check_whole
from crate_jax.evaluation.solver import fit, held_out_right, make_design

SHOTS = (5, 10)
DRAWS = 5
FOLDS = 5


def drawn(label_N, most, draw):
    """Examples of each class, in the order of drawing; every K-per-class sample comes from here.

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
        shots: wanted; None is `SHOTS`, as far as they go; none if empty.

    Raises:
        UserError: a class has fewer examples than one of `shots`.
    """
    fewest = int(np.bincount(label_N).min())
    for wanted in shots or ():
        check_whole("--shots", wanted, 1)
        if wanted > fewest:
            raise UserError(f"--shots={wanted}: the smallest class has {fewest} training examples; give 1 to {fewest}.")
    return tuple(one for one in SHOTS if one <= fewest) if shots is None else tuple(shots)


def few_shot_classifiers(train, label_N, num_classes, Cs, *, shots, draws=DRAWS):
    """Classifiers of a few examples.

    Args:
        train: dictionary from name to features_NxG of the training set; one of the names is chosen in each draw.
        label_N: integers, 0 <= label < num_classes; only those of the drawn examples are used.
        num_classes: K.
        Cs: strengths to choose from, ascending.
        shots: examples a class, several numbers.
        draws: how often they are drawn.

    Returns:
        Dictionary from shots to a list of (name, Classifier), one a draw.
    """
    found = {one: [] for one in shots}
    for draw in range(draws if shots else 0):
        index_KxM = drawn(label_N, max(shots), draw)
        for one in shots:
            index_M, rank_M = np.sort(index_KxM[:, :one], None), np.empty(num_classes * one, int)
            rank_M[np.searchsorted(index_M, index_KxM[:, :one])] = np.arange(one)
            found[one].append(_fit(train, index_M, label_N[index_M], rank_M, num_classes, Cs))
    return found


def _fit(train, index_M, label_M, rank_M, num_classes, Cs):
    """(name, classifier) of the drawn examples; name and C by a part of each class held out in turn."""
    folds = min(FOLDS, rank_M.max() + 1)
    designs = {name: make_design(np.asarray(rows_NxG[index_M], np.float32)) for name, rows_NxG in train.items()}
    right = {}
    if folds > 1:
        weight_FxM = np.stack([rank_M % folds != fold for fold in range(folds)])
        for name, design in designs.items():
            counts = held_out_right(design, label_M, num_classes, Cs, weight_FxM)
            right |= {(name, C): count for C, count in zip(Cs, counts, strict=True)}
    else:  # nothing can be held out: the middle of what there is
        names = list(train)
        right = {(names[len(names) // 2], Cs[len(Cs) // 2]): 0}
    name, C = max(right, key=right.get)
    return name, fit(None, label_M, C, num_classes, design=designs[name])
