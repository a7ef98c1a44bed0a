"""What is chosen on held-out training examples, features and C; and the same within K examples per class.

Neighbours in a data set's order are often alike (crops of one photograph, frames of one film), so the held-out part is
a run of neighbours of each class, the last fifth, not a random one. Where there are few examples every fifth is held
out in turn.

With few labels, no other label is seen. The first five of a draw's ten are the draw of five, and every network and the
raw pixels get the same examples.
"""

import logging
from typing import NamedTuple

import numpy as np

from crate_jax.errors import UserError
from crate_jax.evaluation.solver import IN_FLOAT32, fit_all, held_out_right, make_design, make_problems

logger = logging.getLogger(__name__)

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # C, on standardised features
HELD_OUT = 0.2
FEW = 4000  # training examples; with fewer, every fifth is held out in turn
CHOSEN_ON = 20_000  # training examples that the choice is made on at most; the last fit sees all
SHOTS = (5, 10)
DRAWS = 5
FOLDS = 5
COPIES = 4  # arrays as large as the solution: where they outgrow the examples they bound how many draws go together
SMALL = 256  # examples up to which problems of several sizes share a program, filled up with zeros


class Choice(NamedTuple):
    """What the held-out part decided."""

    features: str  # name of the features
    C: float  # inverse regularisation, as scikit-learn's, on standardised features
    accuracy: float  # on the held-out part, a fraction of one
    tried: dict  # every name that was tried to its accuracy there, at its best C


def held_out_mask(label_N):
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
        held_N[members[len(members) - int(np.ceil(HELD_OUT * (len(members) - 1))) :]] = True
    if not held_N.any():
        raise UserError(
            "every class has a single training example, so nothing can be held out to choose by; give two or more of "
            "some class, or to kNN the features, as in knn --features=mean@last --k=1."
        )
    return held_N


def held_out_masks(label_N):
    """The held-out parts that a choice averages over, FxN: every fifth of each class in turn, or of many the last.

    Raises:
        UserError: see `held_out_mask`.
    """
    last_N = held_out_mask(label_N)
    folds = round(1 / HELD_OUT)
    if len(label_N) > FEW or np.bincount(label_N).min() < folds:
        return last_N[None]
    masks = np.zeros((folds, len(label_N)), bool)
    for label in np.unique(label_N):
        for mask, part in zip(masks, np.array_split(np.flatnonzero(label_N == label), folds), strict=True):
            mask[part] = True
    return masks


def choose(candidates, label_N, num_classes, Cs=STRENGTHS):
    """Name and C with the best accuracy on a held-out part of the training set.

    Every name is tried at every C: averages want a weak regularisation, concatenated cells a strong one, so a
    comparison at one C would choose the pooling by the C.

    Args:
        candidates: dictionary from name to features_NxG of the training set.
        label_N: integers, 0 <= label < num_classes.
        Cs: ascending.

    Returns:
        A `Choice`; of equals, the one tried first.

    Raises:
        UserError: see `held_out_mask`.
    """
    everything, held_FxN = [slice(None)], held_out_masks(label_N)
    (chosen,) = _best(candidates, everything, label_N[None], num_classes, Cs, held_FxN[None], logging.INFO)
    if len(Cs) > 1 and chosen.C in (Cs[0], Cs[-1]):
        edge = (chosen.C, chosen.features, Cs[0], Cs[-1])
        logger.warning("C = %g, the best for %s, is at the edge of those tried (%g to %g)", *edge)
    return chosen


def _best(candidates, draws, label_DxM, num_classes, Cs, held_DxFxM, level):
    """The `Choice` of each draw; `draws` select its examples, label_DxM and held_DxFxM (parts that are held out) are
    of those. Accuracies are logged at a level.
    """
    shares_NxDxC, count_Dx1 = [], held_DxFxM.sum((1, 2))[:, None]
    examples = label_DxM.shape[1]
    lengths = [min(label_DxM.shape[1], features_NxG.shape[1]) for features_NxG in candidates.values()]
    least = max(lengths) if examples <= SMALL else 0
    for (name, features_NxG), length in zip(candidates.items(), lengths, strict=True):
        unknowns = COPIES * held_DxFxM.shape[1] * num_classes
        together = max(1, IN_FLOAT32 // (4 * max(examples, unknowns) * max(length, least)))
        right = []
        for first in range(0, len(draws), together):
            some = slice(first, first + together)
            problems = make_problems(
                [make_design(features_NxG[draw]) for draw in draws[some]],
                label_DxM[some], ~held_DxFxM[some], least=least,
            )  # fmt: skip
            right.append(held_out_right(problems, num_classes, Cs))
        shares_NxDxC.append(np.concatenate(right) / count_Dx1)
        logger.log(level, "%s: %.1f %% held out", name, 100 * shares_NxDxC[-1].max(1).mean())
    choices, names = [], list(candidates)
    for share_NxC in np.stack(shares_NxDxC, 1):
        best, strength = np.unravel_index(share_NxC.argmax(), share_NxC.shape)
        tried = dict(zip(names, share_NxC.max(1).tolist(), strict=True))
        choices.append(Choice(names[best], Cs[strength], tried[names[best]], tried))
    return choices


def compact_labels(train_label_N, test_label_M):
    """Labels numbered by the classes that the training set has; -1 for a test label that it has not."""
    classes, train_N = np.unique(train_label_N, return_inverse=True)
    place_M = np.searchsorted(classes, test_label_M).clip(0, len(classes) - 1)
    return train_N, np.where(classes[place_M] == test_label_M, place_M, -1), len(classes)


def interval_of(accuracy, examples):
    """The central 95 % of accuracies over test sets drawn with replacement (bootstrap)."""
    counts = np.random.RandomState(0).binomial(examples, accuracy, 2000)
    return [float(value) for value in np.percentile(counts / examples, [2.5, 97.5])]


def drawn(label_N, most, draw):
    """index_KxM: M = `most` examples of each class 0 to K - 1, in the order of drawing; `draw` is the seed.

    Every K-per-class sample comes from here.
    """
    random = np.random.RandomState(draw)
    return np.stack([random.permutation(np.flatnonzero(label_N == label))[:most] for label in range(label_N.max() + 1)])


def possible(label_N, shots):
    """The numbers of examples a class that there are, of those wanted; None is `SHOTS`, as far as they go.

    Raises:
        UserError: a class has fewer examples than one of `shots`.
    """
    fewest = int(np.bincount(label_N).min())
    for wanted in shots or ():
        if wanted > fewest:
            raise UserError(f"--shots={wanted}: the smallest class has {fewest} training examples; give 1 to {fewest}.")
    return tuple(one for one in SHOTS if one <= fewest) if shots is None else tuple(shots)


def few_shot_classifiers(train, label_N, num_classes, Cs=STRENGTHS, *, shots, draws=DRAWS):
    """Classifiers of a few examples; name and C are chosen by a part of each class's held out in turn.

    Args:
        train, label_N, num_classes, Cs: as of `choose`; only the labels of the drawn examples are used.
        shots: examples a class, several numbers; they are drawn `draws` times.

    Returns:
        Dictionary from shots to a list of (name, Classifier), one a draw.
    """
    found, most = {}, num_classes * max(shots, default=0)
    least = most if most <= SMALL else 0
    for one in shots:
        index_DxM = np.stack([drawn(label_N, max(shots), draw)[:, :one].ravel() for draw in range(draws)])
        order_DxM, rank_M = np.argsort(index_DxM, 1), np.tile(np.arange(one), num_classes)
        index_DxM = np.take_along_axis(index_DxM, order_DxM, 1)  # as they lie in a file
        label_DxM, names, folds = label_N[index_DxM], list(train), min(FOLDS, one)
        if folds > 1:
            held_DxFxM = rank_M[order_DxM][:, None] % folds == np.arange(folds)[:, None]
            choices = _best(train, index_DxM, label_DxM, num_classes, Cs, held_DxFxM, logging.DEBUG)
        else:  # nothing can be held out: the middle of what there is
            choices = [Choice(names[len(names) // 2], Cs[len(Cs) // 2], 0.0, {})] * draws
        examples = [
            (train[choice.features][index_M], label_M, choice.C)
            for choice, index_M, label_M in zip(choices, index_DxM, label_DxM, strict=True)
        ]
        fitted = fit_all(examples, num_classes, least=least)
        found[one] = [(choice.features, classifier) for choice, classifier in zip(choices, fitted, strict=True)]
    return found
