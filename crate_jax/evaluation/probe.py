"""The linear probe: a linear classifier of frozen features, with nothing chosen on the test set, by four protocols.

ours        layer, pooling and C chosen on held-out training examples (`selection`); a solver: probe.json
paper       the class token of the last layer and a solver, as CRATE-MAE's paper has it: probe_paper.json
mae         MAE's: a head trained by LARS on the batch-normalised class token (`configs/probe_mae.py`): probe_mae.json
attentive   a query that attends to the patch tokens, and a linear head: probe_attentive.json

A CRATE-MAE's best features are in the middle of its encoder, so the layer is part of the question; the untrained
network and the raw pixels get the same choice.
"""

import dataclasses
import logging
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from crate_jax.config import load_config
from crate_jax.data.own_pictures import picture_data
from crate_jax.data.sources import open_held_out
from crate_jax.errors import UserError, check_whole
from crate_jax.evaluation import accuracy_figures as figures
from crate_jax.evaluation.attentive import attentive_probe
from crate_jax.evaluation.feature_store import (
    evenly_spaced,
    image_features,
    in_memory,
    labelled,
    labelled_rows,
    split_images,
)
from crate_jax.evaluation.features import RAW, candidate_names, parse_features
from crate_jax.evaluation.finetune import finetune
from crate_jax.evaluation.results import Result
from crate_jax.evaluation.selection import (
    CHOSEN_ON,
    DRAWS,
    choose,
    compact_labels,
    few_shot_classifiers,
    interval_of,
    possible,
)
from crate_jax.evaluation.solver import fit
from crate_jax.figures import gallery

logger = logging.getLogger(__name__)

PROTOCOLS = ("ours", "paper", "mae", "attentive")
OF_TRAINING = ("batch_size", "total_steps", "total_epochs", "log_every_steps", "optimizer", "checkpoint", "mesh")
LIKELIEST = 5  # classes that are listed for a person's own picture
BASELINES = ("untrained", "raw")
COMPARED = ("accuracy", "features", "C", "interval", "converged", "held_out")  # of a baseline
MOST_CLASSES = 100  # of a confusion matrix in probe.json


def probe(
    subject,
    *,
    protocol="ours",
    features=None,
    shots=None,
    baselines=BASELINES,
    pictures=None,
    overrides=(),
    second_interrupt=None,
):
    """Runs the probe by a protocol.

    Args:
        protocol: one of `PROTOCOLS`; all but ours fix the features.
        features: POOLING@LAYER; None chooses.
        shots: examples per class of the few-shot probes, one or several; None is 5 and 10, if there are as many.
        baselines: of "untrained" (the network with its initial parameters) and "raw" (pixels, at 32 a side at most);
            the paper's protocol takes them too.
        pictures: of `--images=`: they take the place of the held-out split, and are classified.
        overrides: pairs (dotted leaf, text or value); MAE's training takes those of a training (`OF_TRAINING`).
        second_interrupt: of MAE's training, see `evaluation.finetune.finetune`.

    Returns:
        A `Result`; its numbers are what `probe.json` or `probe_PROTOCOL.json` holds. None if MAE's training was
        preempted.

    Raises:
        UserError: no such protocol, or what it does not take; no such split, layer, baseline or picture, no labels, one
            class only, fewer examples than shots.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"--protocol={protocol}: give one of {', '.join(PROTOCOLS)}.")
    if protocol == "ours":
        return _solved(subject, features, shots, baselines, pictures)
    for flag, value in (("features", features), ("shots", shots), ("images", pictures)):
        if value is not None:
            raise UserError(
                f"--{flag} does not go with --protocol={protocol}, which fixes the features; leave one out."
            )
    if protocol == "attentive":
        return attentive_probe(subject)
    if protocol == "paper":
        result = _solved(subject, "cls@last", None, baselines, None)
    else:
        leaves = [(name, value) for name, value in overrides if name.partition(".")[0] in OF_TRAINING]
        folder = subject.out / "finetune" / "probe_mae"
        result = finetune(subject, load_config("probe_mae", leaves), folder, second_interrupt=second_interrupt)
        if result is None:
            return None
    return dataclasses.replace(
        result,
        kind=f"probe_{protocol}",
        numbers={"protocol": protocol} | result.numbers,
        figures={f"{name}_{protocol}".replace("finetune", "probe"): draw for name, draw in result.figures.items()},
    )


def _solved(subject, features, shots, baselines, pictures):
    """The probe by a solver: of the network and the baselines."""
    shots = shots if shots is None else tuple(np.atleast_1d(np.asarray(shots, object)).ravel())
    for one in shots or ():  # how many a class has is known after minutes only
        check_whole("--shots", one, 1)
    baselines = [baselines] if isinstance(baselines, str) else baselines
    known = isinstance(baselines, Collection) and all(one in BASELINES for one in baselines)
    if not known:
        text = baselines if not isinstance(baselines, Collection) else ",".join(map(str, baselines))
        raise UserError(f"--baselines={text}: give some of {', '.join(BASELINES)}, or none, an empty list in Python.")
    settings, depth = subject.config.data, subject.model.depth
    if features is not None:
        parse_features(features, depth)
    names = (features,) if features else tuple(candidate_names(depth))
    if pictures is not None:
        return _of_pictures(subject, names, pictures)
    open_held_out(settings, classify=True)  # a missing split is reported now, not after minutes
    found = {"": probe_one(subject, names, shots)}
    if "untrained" in baselines:
        found["untrained_"] = probe_one(subject.untrained(), names, shots)
    if "raw" in baselines:
        found["raw_pixel_"] = probe_one(subject, (RAW,), shots)
    probed = found[""]
    results = probed.numbers | {"chosen": features is None}
    for prefix, one in list(found.items())[1:]:
        results |= {f"{prefix}{key}": one.numbers[key] for key in COMPARED}
    few_shot, few_rows = {}, []
    for number in probed.few_shot:
        draws = {prefix + key: kept for prefix, one in found.items() for key, kept in one.few_shot[number].items()}
        means = {key: float(np.mean(kept)) for key, kept in draws.items() if key.endswith("accuracy")}
        few_shot[str(number)] = means | {"by_draw": draws}
        few_rows.append({"shots": number} | means)
    called = subject.class_names(settings.train_split, settings.validation_split)
    results |= {"few_shot": few_shot, "few_shot_draws": DRAWS, **_by_class(probed, called)}
    results |= subject.stamp(settings.validation_split, len(probed.label_M)) | _training_stamp(subject, probed.numbers)
    by_features = [{"features": name, "held_out": share} for name, share in results["held_out"].items()]
    tables = {"features": by_features, "few_shot": few_rows, "classes": results["classes"]}
    drawn = {"probe": lambda: figures.probe_figure(results, depth)}
    if "confusion" in results:
        drawn["probe_confusion"] = lambda: figures.confusion_figure(results)
    drawn["probe_errors"] = lambda: _errors_figure(subject, probed, called)
    return Result("probe", results, tables, drawn)


def _training_stamp(subject, numbers):
    split = subject.config.data.train_split
    fingerprint = subject.open_split(split).fingerprint
    return {"training_data": {"split": split, "fingerprint": fingerprint, "examples": numbers["train_examples"]}}


class Probed(NamedTuple):
    """The probe of one network."""

    numbers: dict  # `accuracy` on the test split, `features`, `C`, ...
    few_shot: dict  # examples a class to {"accuracy": list, "features": list}, one a draw
    class_K: np.ndarray  # label of each class of the classifier
    label_M: np.ndarray  # of the test examples: true class (-1: unknown in training)
    index_M: np.ndarray  # their numbers in the split
    ranked_MxL: np.ndarray  # their likeliest classes


def probe_one(subject, names, shots):
    """The probe of one network: `Probed`. It chooses from the features `names`; `shots` as of `probe`."""
    settings = subject.config.data
    logger.info("%s: %s on %s", subject.source, "choosing" if len(names) > 1 else names[0], settings.name)
    train, train_N, class_K = _training(subject, names)
    shots = possible(train_N, shots)
    chosen = choose(train.features, train_N, len(class_K))
    # of many examples a part is drawn from, in which not every class need have one
    few, drawn_K = few_shot_classifiers(train.features, train_N, len(class_K), shots=shots), class_K
    if len(labelled(subject, settings.train_split)) > CHOSEN_ON:
        train, train_N, class_K = _training(subject, (chosen.features,), None)
    classifier = fit(train.features[chosen.features], train_N, chosen.C, len(class_K))
    needed = tuple(dict.fromkeys([chosen.features, *(name for found in few.values() for name, _ in found)]))
    if in_memory(subject, names, len(labelled(subject, settings.validation_split))):
        needed = names  # by the program that is compiled already
    test = labelled_rows(subject, settings.validation_split, needed)
    (_, test_M, _), (_, few_M, _) = (compact_labels(known_K, test.label_N) for known_K in (class_K, drawn_K))
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
        "train_examples": len(train_N),
        "test_examples": len(test_M),
        "held_out": chosen.tried,
    }
    scores = {
        number: {
            "accuracy": [one.accuracy(test.features[name], few_M) for name, one in found],
            "features": [name for name, _ in found],
        }
        for number, found in few.items()
    }
    return Probed(numbers, scores, class_K, test_M, test.index_N, ranked_MxL)


def _training(subject, names, most=CHOSEN_ON):
    """(`Rows`, labels from 0, label of each class) of the training examples, at most so many."""
    rows = labelled_rows(subject, subject.config.data.train_split, names, most)
    class_K, train_N = np.unique(rows.label_N, return_inverse=True)
    return rows, train_N, class_K


def _by_class(probed, called):
    """`classes`: accuracy of each, by name; `confusion`: counts, a row a true class, where there are not too many."""
    count, known_M = len(probed.class_K), probed.label_M >= 0
    counts_KxK = np.zeros((count, count), int)
    np.add.at(counts_KxK, (probed.label_M[known_M], probed.ranked_MxL[known_M, 0]), 1)
    found = {
        "classes": [
            {
                "class": called(label),
                "accuracy": float(row_K[place] / row_K.sum()) if row_K.any() else None,
                "test_examples": int(row_K.sum()),
            }
            for place, (label, row_K) in enumerate(zip(probed.class_K, counts_KxK, strict=True))
        ]
    }
    return found | ({"confusion": counts_KxK.tolist()} if count <= MOST_CLASSES else {})


def _errors_figure(subject, probed, called):
    """Test examples that the probe gets wrong, evenly spaced over them."""
    wrong = np.flatnonzero(probed.ranked_MxL[:, 0] != probed.label_M)
    if not len(wrong):
        return gallery([], "no test example is wrong")
    shown = wrong[evenly_spaced(len(wrong), 16)]
    images = split_images(subject, subject.config.data.validation_split, probed.index_M[shown])[0] / 255

    def name(place):
        return called(probed.class_K[place]) if place >= 0 else "unknown"

    cells = [
        (image, {"title": f"{name(probed.label_M[row])}\n→ {name(probed.ranked_MxL[row, 0])}"})
        for image, row in zip(images, shown, strict=True)
    ]
    return gallery(cells, f"{len(wrong)} of {len(probed.label_M)} test examples are wrong: class → predicted")


def _of_pictures(subject, names, pictures):
    """Pictures in the place of the held-out split: what a classifier of the training split predicts for each."""
    images_BxHxWxC, files = subject.read_pictures(pictures)
    train, train_N, class_K = _training(subject, names)  # `CHOSEN_ON` at most: an answer within minutes
    chosen = choose(train.features, train_N, len(class_K))
    classifier = fit(train.features[chosen.features], train_N, chosen.C, len(class_K))
    called, found = subject.class_names(subject.config.data.train_split), []
    shares_BxK = classifier.probabilities(image_features(subject, images_BxHxWxC, chosen.features))
    for file, share_K in zip(files, shares_BxK, strict=True):
        order = np.argsort(-share_K, kind="stable")[:LIKELIEST]
        shares = {called(class_K[place]): float(share_K[place]) for place in order}
        found.append({"name": file, "prediction": next(iter(shares)), "probabilities": shares})
    results = {"features": chosen.features, "C": chosen.C, "held_out_accuracy": chosen.accuracy, "images": found}
    results |= {"train_examples": len(train_N)} | subject.stamp(data=picture_data(images_BxHxWxC))
    results |= _training_stamp(subject, results)
    draw = {"probe": lambda: figures.verdicts_figure(images_BxHxWxC / 255, found)}
    return Result("probe", results, {"images": found}, draw)
