"""The linear probe: logistic regression on frozen features, with nothing chosen on the test set.

Layer, pooling and regularisation are chosen on a held-out part of the training set, then the classifier is fitted on
all of it. A CRATE-MAE's best features are in the middle of its encoder, so the layer is part of the question; the
untrained network and the raw pixels get the same choice.

Neighbours in a data set's order are often alike (crops of one photograph, frames of one film), so the held-out part is
a run of neighbours of each class, the last fifth, not a random one. Where there are few examples every fifth is held
out in turn.
"""

import dataclasses
import logging

import numpy as np

from crate_jax.errors import UserError
from crate_jax.evaluation import accuracy_figures as figures
from crate_jax.evaluation.feature_store import (
    RAW,
    check_labels,
    evenly_spaced,
    labelled,
    split_features,
    split_images,
    split_rows,
)
from crate_jax.evaluation.features import candidate_names
from crate_jax.evaluation.few_shot import DRAWS, few_shot_classifiers, possible
from crate_jax.evaluation.pictures import picture_data, picture_features, read_pictures
from crate_jax.evaluation.results import Result
from crate_jax.evaluation.solver import Classifier, fit, held_out_right, make_design

logger = logging.getLogger(__name__)

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # C, on standardised features
HELD_OUT = 0.2
FEW = 4000  # training examples; with fewer, every fifth is held out in turn
CHOSEN_ON = 20_000  # training examples that the choice is made on at most; the last fit sees all
LIKELIEST = 5  # classes that are listed for a person's own picture
BASELINES = ("untrained", "raw")
MOST_CLASSES = 100  # of a confusion matrix in probe.json


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
        raise UserError("every class has a single training example; a probe needs two or more of some.")
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
        num_classes: K.
        Cs: ascending.

    Returns:
        A `Choice`; of equals, the one tried first.

    Raises:
        UserError: see `held_out_mask`.
    """
    held_FxN = held_out_masks(label_N)
    accuracy = {}
    for name, features_NxG in candidates.items():
        right = held_out_right(make_design(features_NxG), label_N, num_classes, Cs, ~held_FxN)
        accuracy |= {(name, C): count / int(held_FxN.sum()) for C, count in zip(Cs, right, strict=True)}
        logger.info("%s: %.1f %% held out", name, 100 * max(right) / held_FxN.sum())
    name, C = max(accuracy, key=accuracy.get)
    if len(Cs) > 1 and C in (Cs[0], Cs[-1]):
        logger.warning("C = %g, the best for %s, is at the edge of those tried (%g to %g)", C, name, Cs[0], Cs[-1])
    tried = {one: max(accuracy[one, strength] for strength in Cs) for one in candidates}
    return Choice(name, C, accuracy[name, C], tried)


def compact_labels(train_label_N, test_label_M):
    """Labels numbered by the classes that the training set has; -1 for a test label that it has not."""
    classes, train_N = np.unique(train_label_N, return_inverse=True)
    place_M = np.searchsorted(classes, test_label_M).clip(0, len(classes) - 1)
    return train_N, np.where(classes[place_M] == test_label_M, place_M, -1), len(classes)


def interval_of(accuracy, examples):
    """The central 95 % of accuracies over test sets drawn with replacement (bootstrap)."""
    counts = np.random.RandomState(0).binomial(examples, accuracy, 2000)
    return [float(value) for value in np.percentile(counts / examples, [2.5, 97.5])]


@dataclasses.dataclass(frozen=True)
class Probed:
    """The probe of one network.

    Attributes:
        numbers: `accuracy` on the test split, `features`, `C`, ...
        few_shot: dictionary from examples a class to {"accuracy": list, "features": list}, one a draw.
        classifier: fitted on the whole training set.
        class_K: label of each of its classes.
        label_M, index_M, ranked_MxL: of the test examples: true class (-1: unknown in training), number in the split,
            likeliest classes.
    """

    numbers: dict
    few_shot: dict
    classifier: Classifier
    class_K: np.ndarray
    label_M: np.ndarray
    index_M: np.ndarray
    ranked_MxL: np.ndarray


def probe(subject, *, features=None, shots=None, baselines=BASELINES, pictures=None):
    """Runs the linear probe.

    Args:
        subject: a `Subject`.
        features: POOLING@LAYER; None chooses.
        shots: examples per class of the few-shot probes, one or several; None is 5 and 10, if there are as many.
        baselines: of "untrained" (the network with its initial parameters) and "raw" (pixels, at 32 a side at most).
        pictures: of `--images=`: they take the place of the held-out split, and are classified.

    Returns:
        A `Result`; its numbers are what `probe.json` holds.

    Raises:
        UserError: no such split, layer, baseline or picture, no labels, one class only, fewer examples than shots.
    """
    shots = (shots,) if isinstance(shots, int) else shots
    baselines = [baselines] if isinstance(baselines, str) else baselines
    wrong = [one for one in baselines if one not in BASELINES]
    if wrong:
        raise UserError(f"--baselines={','.join(wrong)}: give some of {', '.join(BASELINES)}, or none.")
    settings, model = subject.config.data, subject.model
    names = (features,) if features else tuple(candidate_names(model.depth))
    if pictures is not None:
        return _of_pictures(subject, names, pictures)
    subject.open_split(settings.validation_split)  # a missing split is reported now, not after minutes
    probed = probe_one(subject, names, shots)
    results = probed.numbers | {"chosen": features is None}
    few = {shots: dict(found) for shots, found in probed.few_shot.items()}
    others = [("untrained", subject.untrained(), names)] if "untrained" in baselines else []
    others += [("raw_pixel", subject, (RAW,))] if "raw" in baselines else []
    for prefix, one, its_names in others:
        outcome = probe_one(one, its_names, shots)
        wanted = ("accuracy", "features", "C", "interval", "converged", "held_out")
        results |= {f"{prefix}_{key}": outcome.numbers[key] for key in wanted}
        for number, found in outcome.few_shot.items():
            few[number] |= {f"{prefix}_{key}": values for key, values in found.items()}
    results["few_shot"] = {
        str(number): {key: float(np.mean(values)) for key, values in one.items() if key.endswith("accuracy")}
        | {"by_draw": one}
        for number, one in few.items()
    }
    called = subject.class_names(settings.train_split, settings.validation_split)
    results |= {"few_shot_draws": DRAWS, **_by_class(probed, called)}
    results |= subject.stamp(settings.validation_split, len(probed.label_M)) | _training_stamp(subject, probed.numbers)
    tables = {
        "features": [{"features": k, "held_out": v} for k, v in results["held_out"].items()],
        "few_shot": [
            {"shots": int(shots)} | {key: value for key, value in one.items() if key != "by_draw"}
            for shots, one in results["few_shot"].items()
        ],
        "classes": results["classes"],
    }  # fmt: skip
    drawn = {"probe": lambda: figures.probe_figure(results, model.depth)}
    if len(probed.class_K) <= MOST_CLASSES:
        drawn["probe_confusion"] = lambda: figures.confusion_figure(results)
    drawn["probe_errors"] = lambda: _errors_figure(subject, probed, called)
    return Result("probe", results, tables, drawn)


def _training_stamp(subject, numbers):
    split = subject.config.data.train_split
    fingerprint = subject.open_split(split).fingerprint
    return {"training_data": {"split": split, "fingerprint": fingerprint, "examples": numbers["train_examples"]}}


def probe_one(subject, names, shots):
    """The probe of one network: `Probed`.

    Args:
        subject: a `Subject`.
        names: the features to choose from.
        shots: see `probe`.
    """
    settings = subject.config.data
    logger.info("%s: %s on %s", subject.source, "choosing" if len(names) > 1 else names[0], settings.name)
    train, label_N, train_N, num_classes = _training(subject, names)
    shots = possible(train_N, shots)
    chosen = choose(train, train_N, num_classes)
    few = few_shot_classifiers(train, train_N, num_classes, STRENGTHS, shots=shots)
    indices, everything = (labelled(settings, settings.train_split, most) for most in (CHOSEN_ON, None))
    if not np.array_equal(indices, everything):
        train, label_N = split_features(subject, settings.train_split, (chosen.features,), indices=everything)
        train_N, _, num_classes = compact_labels(label_N, label_N)
    needed = tuple(dict.fromkeys([chosen.features, *(name for found in few.values() for name, _ in found)]))
    test = split_rows(subject, settings.validation_split, needed, indices=labelled(settings, settings.validation_split))
    check_labels(test.label_N, subject, settings.validation_split)
    _, test_M, _ = compact_labels(label_N, test.label_N)
    classifier = fit(train[chosen.features], train_N, chosen.C, num_classes)
    ranked_MxL = classifier.ranked(test.features[chosen.features])
    accuracy = float(np.mean(ranked_MxL[:, 0] == test_M))
    numbers = {
        "accuracy": accuracy,
        "interval": interval_of(accuracy, len(test_M)),
        "top5_accuracy": float(np.mean((ranked_MxL == test_M[:, None]).any(1))),
        "features": chosen.features,
        "C": chosen.C,
        "converged": classifier.converged,
        "held_out_accuracy": chosen.accuracy,
        "train_examples": len(label_N),
        "test_examples": len(test_M),
        "held_out": chosen.tried,
    }
    scores = {
        shots: {
            "accuracy": [one.accuracy(test.features[name], test_M) for name, one in found],
            "features": [name for name, _ in found],
        }
        for shots, found in few.items()
    }
    return Probed(numbers, scores, classifier, np.unique(label_N), test_M, test.index_N, ranked_MxL)


def _training(subject, names):
    """(features, labels, labels from 0, classes) of the training examples that choices are made on."""
    settings = subject.config.data
    indices = labelled(settings, settings.train_split, CHOSEN_ON)
    train, label_N = split_features(subject, settings.train_split, names, indices=indices)
    check_labels(label_N, subject, settings.train_split)
    train_N, _, num_classes = compact_labels(label_N, label_N)
    return train, label_N, train_N, num_classes


def _by_class(probed, called):
    """`classes`: accuracy of each, by name; `confusion`: counts, a row a true class, where there are not too many."""
    predicted_M, count = probed.ranked_MxL[:, 0], len(probed.class_K)
    rows = []
    for place, label in enumerate(probed.class_K):
        members = probed.label_M == place
        share = float(np.mean(predicted_M[members] == place)) if members.any() else None
        rows.append({"class": called(label), "accuracy": share, "test_examples": int(members.sum())})
    found = {"classes": rows}
    if count <= MOST_CLASSES:
        from sklearn.metrics import confusion_matrix

        known = probed.label_M >= 0
        counts = confusion_matrix(probed.label_M[known], predicted_M[known], labels=np.arange(count))
        found["confusion"] = counts.tolist()
    return found


def _errors_figure(subject, probed, called):
    """Test examples that the probe gets wrong, evenly spaced over them."""
    wrong = np.flatnonzero(probed.ranked_MxL[:, 0] != probed.label_M)
    shown = wrong[evenly_spaced(len(wrong), 16)] if len(wrong) else wrong
    if not len(shown):
        return figures.gallery([], "no test example is wrong")
    split = subject.config.data.validation_split
    images = split_images(subject, split, probed.index_M[shown])[0] / 255

    def name(place):
        return called(probed.class_K[place]) if place >= 0 else "unknown"

    cells = [
        (image, f"{name(probed.label_M[row])}\n→ {name(probed.ranked_MxL[row, 0])}")
        for image, row in zip(images, shown, strict=True)
    ]
    return figures.gallery(cells, f"{len(wrong)} of {len(probed.label_M)} test examples are wrong: class → predicted")


def _of_pictures(subject, names, pictures):
    """Pictures in the place of the held-out split: what a classifier of the training split predicts for each."""
    model = subject.model
    images_BxHxWxC, files = read_pictures(pictures, subject.config, model.image_size, model.channels)
    train, label_N, train_N, num_classes = _training(subject, names)
    chosen = choose(train, train_N, num_classes)
    classifier = fit(train[chosen.features], train_N, chosen.C, num_classes)
    called, class_K = subject.class_names(subject.config.data.train_split), np.unique(label_N)
    features_BxG, found = picture_features(subject, images_BxHxWxC, chosen.features), []
    for file, share_K in zip(files, classifier.probabilities(features_BxG), strict=True):
        order = np.argsort(-share_K, kind="stable")[:LIKELIEST]
        shares = {called(class_K[place]): float(share_K[place]) for place in order}
        found.append({"name": file, "prediction": next(iter(shares)), "probabilities": shares})
    results = {"features": chosen.features, "C": chosen.C, "held_out_accuracy": chosen.accuracy, "images": found}
    results |= {"train_examples": len(label_N)} | subject.stamp(data=picture_data(images_BxHxWxC))
    results |= _training_stamp(subject, results)
    draw = {"probe": lambda: figures.verdicts_figure(images_BxHxWxC / 255, found)}
    return Result("probe", results, {"images": found}, draw)
