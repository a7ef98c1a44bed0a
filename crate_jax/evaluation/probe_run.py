"""The linear probe of a subject, of the untrained network and of raw pixels, each with its own choice."""

import dataclasses
import logging

import numpy as np

from crate_jax.data.sources import open_source
from crate_jax.evaluation.classifier_figures import probe_figure, verdicts_figure
from crate_jax.evaluation.feature_store import RAW, check_labels, labelled, split_features
from crate_jax.evaluation.features import candidate_names
from crate_jax.evaluation.few_shot import DRAWS, few_shot, possible
from crate_jax.evaluation.linear_probe import Classifier, choose, compact_labels, fit
from crate_jax.evaluation.pictures import class_namer, picture_features, read_pictures

logger = logging.getLogger(__name__)

CHOSEN_ON = 20_000  # training examples that the choice is made on at most; the last fit sees all
LIKELIEST = 5  # classes that are listed for a person's own picture


def probe(subject, *, features=None, shots=None, pictures=None):
    """Runs the probe and draws figures/probe.png.

    Args:
        subject: a `Subject`.
        features: POOLING@LAYER; None chooses.
        shots: examples a class of the few-shot probes, several numbers; None is 5 and 10, as far as they go.
        pictures: of `--images=`: the fitted classifier says what it takes each for (figures/probe_images.png).

    Returns:
        What `probe.json` holds.

    Raises:
        UserError: no such split, layer or picture, no labels, one class only, fewer examples than shots.
    """
    names = (features,) if features else tuple(candidate_names(subject.model.depth))
    open_source(subject.config.data.name, subject.config.data.validation_split, subject.config.data.data_dir)
    model, own = subject.model, None
    if pictures:  # first: what cannot be read is told before minutes have passed
        own = read_pictures(pictures, subject.config, model.image_size, model.channels)
    probed = probe_one(subject, names, shots)
    results = probed.numbers | {"held_out": probed.held_out}
    few = {one: {"accuracy": scores} for one, scores in probed.few_shot.items()}
    for prefix, one, its_names in (("untrained", subject.untrained(), names), ("raw_pixel", subject, (RAW,))):
        outcome = probe_one(one, its_names, shots)
        results |= {f"{prefix}_{key}": outcome.numbers[key] for key in ("accuracy", "features", "C")}
        for number, scores in outcome.few_shot.items():
            few[number][f"{prefix}_accuracy"] = scores
        if prefix == "untrained":
            results["untrained_held_out"] = outcome.held_out
    results["few_shot"] = {
        str(number): {key: float(np.mean(scores)) for key, scores in one.items()} | {"by_draw": one}
        for number, one in few.items()
    }
    settings = subject.config.data
    results |= {
        "few_shot_draws": DRAWS,
        "train_split": settings.train_split,
        "test_split": settings.validation_split,
        "of": subject.source,
    }
    if own:
        results["images"] = verdicts(subject, probed, *own)
        subject.draw("probe_images.png", lambda: verdicts_figure(own[0] / 255, results["images"]))
    subject.draw("probe.png", lambda: probe_figure(results, model.depth))
    return results


@dataclasses.dataclass(frozen=True)
class Probed:
    """The probe of one network.

    Attributes:
        numbers: `accuracy` on the test split, `features`, `C`, `held_out_accuracy`, `train_examples`, `test_examples`.
        held_out: dictionary from every name tried to its accuracy on the held-out part.
        few_shot: dictionary from examples a class to accuracies, one a draw.
        classifier: fitted on the whole training set.
        class_K: label of each of its classes.
    """

    numbers: dict
    held_out: dict
    few_shot: dict
    classifier: Classifier
    class_K: np.ndarray


def probe_one(subject, names, shots):
    """The probe of one network: `Probed`.

    Args:
        subject: a `Subject`.
        names: the features to choose from.
        shots: see `probe`.
    """
    settings = subject.config.data
    indices, everything = (labelled(settings, settings.train_split, most) for most in (CHOSEN_ON, None))
    train, label_N = split_features(subject, settings.train_split, names, indices=indices)
    check_labels(label_N, subject, settings.train_split)
    compact_N, _, num_classes = compact_labels(label_N, label_N)
    shots = possible(compact_N, shots)
    chosen = choose(train, compact_N, num_classes)
    logger.info("%s: %s at C = %g, %.1f %% held out", subject.source, chosen.features, chosen.C, 100 * chosen.accuracy)
    if not np.array_equal(indices, everything):
        train, label_N = split_features(subject, settings.train_split, (chosen.features,), indices=everything)
    test, test_label_M = split_features(
        subject, settings.validation_split, (chosen.features,), indices=labelled(settings, settings.validation_split)
    )
    check_labels(test_label_M, subject, settings.validation_split)
    train_N, test_M, num_classes = compact_labels(label_N, test_label_M)
    train, test = train[chosen.features], test[chosen.features]
    classifier = fit(train, train_N, chosen.C, num_classes)
    numbers = {
        "accuracy": classifier.accuracy(test, test_M),
        "features": chosen.features,
        "C": chosen.C,
        "held_out_accuracy": chosen.accuracy,
        "train_examples": len(label_N),
        "test_examples": len(test_label_M),
    }
    few = few_shot(train, train_N, test, test_M, num_classes, shots=shots)
    return Probed(numbers, chosen.tried, few, classifier, np.unique(label_N))


def verdicts(subject, probed, images_BxHxWxC, names):
    """What the classifier takes a person's own pictures for.

    Args:
        subject: a `Subject`.
        probed: its `Probed`.
        images_BxHxWxC, names: of `read_pictures`.

    Returns:
        [{"name", "prediction", "probabilities": class to share, the likeliest first}].
    """
    settings = subject.config.data
    called = class_namer(open_source(settings.name, settings.train_split, settings.data_dir))
    features_BxG = picture_features(subject, images_BxHxWxC, probed.numbers["features"])
    found = []
    for name, share_K in zip(names, probed.classifier.probabilities(features_BxG), strict=True):
        order = np.argsort(-share_K, kind="stable")[:LIKELIEST]
        shares = {called(probed.class_K[place]): float(share_K[place]) for place in order}
        found.append({"name": name, "prediction": next(iter(shares)), "probabilities": shares})
    return found
