"""The nearest-neighbour classifier of a subject, and pictures beside the training examples that vote for them."""

import numpy as np

from crate_jax.data.sources import open_source
from crate_jax.errors import UserError
from crate_jax.evaluation import knn
from crate_jax.evaluation.classifier_figures import SHOWN, neighbours_figure, shortened
from crate_jax.evaluation.feature_store import check_labels, labelled, split_features, split_rows
from crate_jax.evaluation.features import candidate_names
from crate_jax.evaluation.linear_probe import compact_labels, held_out_mask
from crate_jax.evaluation.pictures import class_namer, picture_features, read_pictures, split_pictures

CHOSEN_ON = 20_000  # training examples that the features are chosen on at most
DRAWN = 8  # neighbours a row of the figure


def classify(subject, *, features=None, k=knn.NEIGHBOURS, temperature=knn.TEMPERATURE, pictures=None):
    """Runs the classifier and draws figures/knn.png.

    Args:
        subject: a `Subject`.
        features: POOLING@LAYER; None chooses, on a held-out part of the training set.
        k, temperature: neighbours that vote, and T.
        pictures: of `--images=`: the neighbours of each and their vote (figures/knn_images.png).

    Returns:
        What `knn.json` holds.

    Raises:
        UserError: no such split, layer or picture, no labels, one class only, fewer examples than k.
    """
    if temperature <= 0:
        raise UserError(f"--temperature={temperature:g}: give a number above 0.")
    settings, model, own = subject.config.data, subject.model, None
    open_source(settings.name, settings.validation_split, settings.data_dir)
    if pictures:  # first: what cannot be read is told at once
        own = read_pictures(pictures, subject.config, model.image_size, model.channels)
    features = features or choose(subject, k=k, temperature=temperature)
    train = split_rows(subject, settings.train_split, (features,), indices=labelled(settings, settings.train_split))
    check_labels(train.label_N, subject, settings.train_split)
    test = split_rows(
        subject, settings.validation_split, (features,), indices=labelled(settings, settings.validation_split)
    )
    check_labels(test.label_N, subject, settings.validation_split)
    train_N, test_M, count = compact_labels(train.label_N, test.label_N)
    if count < 2:
        raise UserError("the training examples have 1 class; a classifier needs two or more.")
    bank = Bank(subject, train, train_N, features, k, temperature)
    share_MxC, _, index_MxK = bank.look_up(test.features[features])
    right_M = share_MxC.argmax(1) == test_M
    results = {
        "accuracy": float(np.mean(right_M)),
        "k": k,
        "temperature": temperature,
        "features": features,
        "train_examples": len(train_N),
        "test_examples": len(test_M),
        "of": subject.source,
    }
    subject.draw("knn.png", lambda: _of_the_test_set(bank, test, share_MxC, index_MxK, results))
    if own:
        figure, results["images"] = _of_pictures(bank, *own)
        subject.draw("knn_images.png", lambda: figure)
    return results


class Bank:
    """The training examples that vote.

    Args:
        subject: a `Subject`.
        train: `Rows` of its training split.
        train_N: their labels, numbered from 0 by the classes that there are.
        features: POOLING@LAYER.
        k, temperature: neighbours that vote, and T.
    """

    def __init__(self, subject, train, train_N, features, k, temperature):
        settings = subject.config.data
        splits = (settings.train_split, settings.validation_split)  # the latter may have further classes
        sources = [open_source(settings.name, split, settings.data_dir) for split in splits]
        self.subject, self.train, self.features, self.k = subject, train, features, k
        self.class_C, self.called = np.unique(train.label_N), class_namer(*sources)
        self._train_N, self._temperature = train_N, temperature

    def look_up(self, test_QxG):
        """(shares of the vote QxC, cosine_QxK, row_QxK of the neighbours)."""
        cosine_QxK, row_QxK = knn.nearest(self.train.features[self.features], test_QxG, k=self.k)
        voters = {"temperature": self._temperature, "num_classes": len(self.class_C)}
        return knn.votes(cosine_QxK, self._train_N[row_QxK], **voters), cosine_QxK, row_QxK

    def pictures(self, row_QxK):
        """The first neighbours of each query, as far as they are drawn: QxKxHxWxC."""
        row_QxK = row_QxK[:, :DRAWN]
        split = self.subject.config.data.train_split
        images = split_pictures(self.subject, split, self.train.index_N[row_QxK.ravel()])
        return images.reshape(*row_QxK.shape, *images.shape[1:])


def _of_the_test_set(bank, test, share_MxC, row_MxK, results):
    """Examples from all over the test split, neither the best nor the worst."""
    shown = np.unique(np.linspace(0, len(test.label_N) - 1, SHOWN).round().astype(int))
    images = split_pictures(bank.subject, bank.subject.config.data.validation_split, test.index_N[shown])
    neighbours, rows = bank.pictures(row_MxK[shown]), []
    for number, place in enumerate(shown):
        label, winner = test.label_N[place], bank.class_C[share_MxC[place].argmax()]
        verdict = "✓" if winner == label else f"✗ taken for {bank.called(winner)}\n"
        labels = bank.train.label_N[row_MxK[place]]
        cells = zip(neighbours[number], map(bank.called, labels), labels == label, strict=False)
        title = f"{bank.called(label)}\n{verdict} {share_MxC[place].max():.0%} of the vote"
        rows.append({"image": images[number], "title": title, "neighbours": [(a, b, bool(c)) for a, b, c in cells]})
    caption = (
        f"{results['accuracy']:.1%} of {results['test_examples']} test examples by {results['features']}, "
        f"k = {results['k']}; evenly spaced ones are shown, ✗ and a frame: another class"
    )
    return neighbours_figure(rows, caption)


def _of_pictures(bank, images_BxHxWxC, names):
    """(figure, what `knn.json` says of a person's own pictures)."""
    share_BxC, cosine_BxK, row_BxK = bank.look_up(picture_features(bank.subject, images_BxHxWxC, bank.features))
    rows, said = [], []
    drawn = bank.pictures(row_BxK[:SHOWN])
    for number, name in enumerate(names):
        order = [place for place in np.argsort(-share_BxC[number], kind="stable") if share_BxC[number, place] > 0]
        votes = {bank.called(bank.class_C[place]): float(share_BxC[number, place]) for place in order}
        winner, near = next(iter(votes)), row_BxK[number]
        called = [bank.called(label) for label in bank.train.label_N[near]]
        neighbours = [
            {"index": int(bank.train.index_N[row]), "class": one, "cosine": float(cosine)}
            for row, one, cosine in zip(near, called, cosine_BxK[number], strict=True)
        ]
        said.append({"name": name, "prediction": winner, "votes": votes, "neighbours": neighbours})
        if number < SHOWN:
            title = f"{shortened(name, 22)}\n{winner}, {votes[winner]:.0%} of the vote"
            cells = [(image, one, None) for image, one in zip(drawn[number], called, strict=False)]
            rows.append({"image": images_BxHxWxC[number] / 255, "title": title, "neighbours": cells})
    return neighbours_figure(rows, f"neighbours by {bank.features}; all {bank.k} vote"), said


def choose(subject, *, k, temperature):
    """The features with the best accuracy on a held-out part of the training set.

    Raises:
        UserError: as `classify`.
    """
    settings = subject.config.data
    names = tuple(candidate_names(subject.model.depth))
    train, label_N = split_features(
        subject, settings.train_split, names, indices=labelled(settings, settings.train_split, CHOSEN_ON)
    )
    check_labels(label_N, subject, settings.train_split)
    held_N = held_out_mask(label_N)
    accuracy = {}
    for name, rows_NxG in train.items():
        predicted = knn.predict(rows_NxG[~held_N], label_N[~held_N], rows_NxG[held_N], k=k, temperature=temperature)
        accuracy[name] = np.mean(predicted == label_N[held_N])
    return max(accuracy, key=accuracy.get)
