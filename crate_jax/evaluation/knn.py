"""The weighted cosine nearest-neighbour classifier (Wu et al. 2018; Caron et al. 2021), in chunks over all devices.

    the k training examples of largest cosine s vote for their class with weight exp(s / T); the heaviest class wins

Ties of the vote go to the smaller class, ties of the cosine to the earlier example. The search is exact unless
`approximate` is set.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from crate_jax.distributed.mesh import make_mesh
from crate_jax.errors import UserError, check_real, check_whole
from crate_jax.evaluation.accuracy_figures import SHOWN, neighbours_figure
from crate_jax.evaluation.feature_store import (
    check_labels,
    evenly_spaced,
    labelled,
    split_features,
    split_images,
    split_rows,
)
from crate_jax.evaluation.features import candidate_names
from crate_jax.evaluation.figures import shortened
from crate_jax.evaluation.pictures import picture_data, picture_features, read_pictures
from crate_jax.evaluation.probe import CHOSEN_ON, compact_labels, held_out_mask, interval_of
from crate_jax.evaluation.results import Result

NEIGHBOURS, TEMPERATURE = 20, 0.07
DRAWN = 8  # neighbours a row of the figure


@functools.partial(jax.jit, static_argnames=("k", "mesh", "approximate"))
def _merge(best_QxK, index_QxK, query_QxG, bank_MxG, first, count, *, k, mesh, approximate):
    """The k nearest of those found before and of the chunk of the training set that begins with example `first`."""
    rows = PartitionSpec(mesh.axis_names)

    def of_a_device(query_QxG, bank_LxG, first, count):
        cosine_QxL = jnp.matmul(query_QxG, bank_LxG.T, precision="highest")
        index_L = first + jax.lax.axis_index(mesh.axis_names) * len(bank_LxG) + jnp.arange(len(bank_LxG))
        cosine_QxL = jnp.where(index_L < count, cosine_QxL, -jnp.inf)  # padding of the last chunk
        find = jax.lax.approx_max_k if approximate else jax.lax.top_k
        found_QxK, place_QxK = find(cosine_QxL, min(k, len(bank_LxG)))
        return found_QxK, index_L[place_QxK]

    found = jax.shard_map(
        of_a_device,
        mesh=mesh,
        in_specs=(PartitionSpec(), rows, PartitionSpec(), PartitionSpec()),
        out_specs=PartitionSpec(None, mesh.axis_names),
        check_vma=False,
    )(query_QxG, bank_MxG, first, count)
    # earlier examples first, as their order is: top_k keeps the first of two equal ones
    together, indices = (jnp.concatenate(pair, 1) for pair in zip((best_QxK, index_QxK), found, strict=True))
    best_QxK, place_QxK = jax.lax.top_k(together, k)
    return best_QxK, jnp.take_along_axis(indices, place_QxK, 1)


@functools.partial(jax.jit, static_argnames=("num_classes",))
def _votes(best_QxK, label_QxK, temperature, num_classes):
    weight_QxK = jnp.exp((best_QxK - best_QxK[:, :1]) / temperature)
    return jnp.einsum("qk,qkc->qc", weight_QxK, jax.nn.one_hot(label_QxK, num_classes), precision="highest")


def unit(x_NxG):
    """Each row over its length; a row of zeros stays."""
    x_NxG = np.asarray(x_NxG, np.float32)
    return x_NxG / np.maximum(np.linalg.norm(x_NxG, axis=1, keepdims=True), 1e-12)


def nearest(train_NxG, test_QxG, *, k=NEIGHBOURS, chunk=16384, query_chunk=2048, mesh=None, approximate=False):
    """The k nearest training examples of each test example.

    Args:
        train_NxG: features; may be memory-mapped, in any float type: only a chunk is read at a time.
        test_QxG: features.
        k: neighbours.
        chunk, query_chunk: rows of either set that are on a device at once.
        mesh: of devices that a chunk of the training set is sharded over; None is one device.
        approximate: by `jax.lax.approx_max_k`, which on TPU is faster and finds 95 % of the neighbours.

    Returns:
        (cosine_QxK, index_QxK), the nearest first.

    Raises:
        UserError: fewer training examples than k.
    """
    count = len(train_NxG)
    if not 1 <= k <= count:
        raise UserError(f"--k={k}: there are only {count} training examples; choose at least 1 and at most so many.")
    mesh = mesh or Mesh(jax.local_devices()[:1], ("data",))
    sharded, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((mesh.axis_names,), ()))
    chunk = mesh.size * -(-min(chunk * mesh.size, count) // mesh.size)
    found = [
        jax.device_put((np.full((len(part), k), -np.inf, np.float32), np.zeros((len(part), k), np.int32), part), whole)
        for part in (unit(test_QxG[first : first + query_chunk]) for first in range(0, len(test_QxG), query_chunk))
    ]
    for first in range(0, count, chunk):  # the training set is read once
        rows_MxG = unit(train_NxG[first : first + chunk])
        rows_MxG = np.pad(rows_MxG, ((0, chunk - len(rows_MxG)), (0, 0)))
        bank_MxG = jax.make_array_from_callback(rows_MxG.shape, sharded, rows_MxG.__getitem__)
        found = [
            (*_merge(*one, bank_MxG, first, count, k=k, mesh=mesh, approximate=approximate), one[2]) for one in found
        ]
    cosine_QxK, index_QxK = (np.concatenate([np.asarray(one[part]) for one in found]) for part in (0, 1))
    return cosine_QxK, index_QxK


def votes(cosine_QxK, label_QxK, *, temperature=TEMPERATURE, num_classes):
    """How the neighbours vote, as shares of one: QxC."""
    parts = [slice(first, first + 2048) for first in range(0, len(label_QxK), 2048)]
    found = [np.asarray(_votes(cosine_QxK[part], label_QxK[part], temperature, num_classes)) for part in parts]
    votes_QxC = np.concatenate(found)
    return votes_QxC / votes_QxC.sum(1, keepdims=True)


def predict(train_NxG, train_label_N, test_QxG, *, k=NEIGHBOURS, temperature=TEMPERATURE, **how):
    """The class of each test example.

    Args:
        train_NxG, test_QxG, k, how: of `nearest`.
        train_label_N: integers from 0.
        temperature: T.

    Returns:
        label_Q, integers.

    Raises:
        UserError: fewer training examples than k.
    """
    cosine_QxK, index_QxK = nearest(train_NxG, test_QxG, k=k, **how)
    num_classes = int(np.max(train_label_N)) + 1
    label_QxK = np.asarray(train_label_N)[index_QxK]
    return votes(cosine_QxK, label_QxK, temperature=temperature, num_classes=num_classes).argmax(1)


@dataclasses.dataclass(frozen=True)
class Bank:
    """The training examples that vote.

    Attributes:
        subject: a `Subject`.
        train: `Rows` of its training split.
        train_N: their labels, numbered from 0 by the classes that there are.
        features: POOLING@LAYER.
        k, temperature: neighbours that vote, and T.
        approximate: see `nearest`.
    """

    subject: Any
    train: Any
    train_N: np.ndarray
    features: str
    k: int
    temperature: float
    approximate: bool

    @property
    def class_C(self):
        """The label of each class that votes."""
        return np.unique(self.train.label_N)

    def look_up(self, test_QxG):
        """(shares of the vote QxC, cosine_QxK, row_QxK of the neighbours)."""
        cosine_QxK, row_QxK = nearest(
            self.train.features[self.features],
            test_QxG,
            k=self.k,
            mesh=make_mesh(self.subject.config.mesh),
            approximate=self.approximate,
        )
        voters = {"temperature": self.temperature, "num_classes": len(self.class_C)}
        return votes(cosine_QxK, self.train_N[row_QxK], **voters), cosine_QxK, row_QxK

    def pictures(self, row_QxK):
        """The first neighbours of each query, as far as they are drawn: QxKxHxWxC."""
        row_QxK = row_QxK[:, :DRAWN]
        split = self.subject.config.data.train_split
        images = split_images(self.subject, split, self.train.index_N[row_QxK.ravel()])[0] / 255
        return images.reshape(*row_QxK.shape, *images.shape[1:])


def knn(subject, *, features=None, k=NEIGHBOURS, temperature=TEMPERATURE, pictures=None, approximate=False):
    """Runs the classifier.

    Args:
        subject: a `Subject`.
        features: POOLING@LAYER; None is what `probe` chose for these parameters, else the best on a held-out part of
            the training set.
        k, temperature: neighbours that vote, and T.
        pictures: of `--images=`: they take the place of the held-out split.
        approximate: see `nearest`.

    Returns:
        A `Result`; its numbers are what `knn.json` holds.

    Raises:
        UserError: no such split, layer or picture, no labels, one class only, fewer examples than k.
    """
    check_whole("--k", k, 1)
    check_real("--temperature", temperature, 1e-3, 1000)
    settings, model, own = subject.config.data, subject.model, None
    if pictures is not None:  # first, so that a file that cannot be read is reported at once
        own = read_pictures(pictures, subject.config, model.image_size, model.channels)
    else:
        subject.open_split(settings.validation_split)
    features = features or subject.best_features() or choose_features(subject, k=k, temperature=temperature)
    train = split_rows(subject, settings.train_split, (features,), indices=labelled(settings, settings.train_split))
    check_labels(train.label_N, subject, settings.train_split)
    train_N, _, count = compact_labels(train.label_N, train.label_N)
    if count < 2:
        raise UserError("the training examples have 1 class; a classifier needs two or more.")
    bank = Bank(subject, train, train_N, features, k, temperature, approximate)
    results = {"k": k, "temperature": temperature, "approximate": approximate, "features": features}
    results |= {"train_examples": len(train_N)}
    if own is not None:
        said, draw = _of_pictures(bank, *own)
        results |= {"images": said} | subject.stamp(data=picture_data(own[0]))
        return Result("knn", results, {"images": said}, {"knn": draw})
    test = split_rows(
        subject, settings.validation_split, (features,), indices=labelled(settings, settings.validation_split)
    )
    check_labels(test.label_N, subject, settings.validation_split)
    _, test_M, _ = compact_labels(train.label_N, test.label_N)
    share_MxC, _, row_MxK = bank.look_up(test.features[features])
    accuracy = float(np.mean(share_MxC.argmax(1) == test_M))
    results = {"accuracy": accuracy, "interval": interval_of(accuracy, len(test_M))} | results
    results |= {"test_examples": len(test_M)} | subject.stamp(settings.validation_split, len(test_M))
    draw = functools.partial(_of_the_test_set, bank, test, share_MxC, row_MxK, results)
    return Result("knn", results, {}, {"knn": draw})


def _of_the_test_set(bank, test, share_MxC, row_MxK, results):
    """Examples from all over the test split, neither the best nor the worst."""
    shown, called = evenly_spaced(len(test.label_N), SHOWN), _namer(bank)
    images = split_images(bank.subject, bank.subject.config.data.validation_split, test.index_N[shown])[0] / 255
    neighbours, rows = bank.pictures(row_MxK[shown]), []
    for number, place in enumerate(shown):
        label, winner = test.label_N[place], bank.class_C[share_MxC[place].argmax()]
        verdict = "✓" if winner == label else f"✗ predicted {called(winner)}\n"
        labels = bank.train.label_N[row_MxK[place]]
        cells = zip(neighbours[number], map(called, labels), labels == label, strict=False)
        title = f"{called(label)}\n{verdict} {share_MxC[place].max():.0%} of the vote"
        rows.append({"image": images[number], "title": title, "neighbours": [(a, b, bool(c)) for a, b, c in cells]})
    caption = (
        f"{results['accuracy']:.1%} of {results['test_examples']} test examples by {results['features']}, "
        f"k = {results['k']}; evenly spaced ones are shown, ✗ and a frame: another class"
    )
    return neighbours_figure(rows, caption)


def _of_pictures(bank, images_BxHxWxC, names):
    """(what `knn.json` says of a person's own pictures, a function that draws the figure)."""
    called = _namer(bank)
    share_BxC, cosine_BxK, row_BxK = bank.look_up(picture_features(bank.subject, images_BxHxWxC, bank.features))
    rows, said = [], []
    drawn = bank.pictures(row_BxK[:SHOWN])
    for number, name in enumerate(names):
        order = [place for place in np.argsort(-share_BxC[number], kind="stable") if share_BxC[number, place] > 0]
        votes = {called(bank.class_C[place]): float(share_BxC[number, place]) for place in order}
        winner, near = next(iter(votes)), row_BxK[number]
        near_called = [called(label) for label in bank.train.label_N[near]]
        neighbours = [
            {"index": int(bank.train.index_N[row]), "class": one, "cosine": float(cosine)}
            for row, one, cosine in zip(near, near_called, cosine_BxK[number], strict=True)
        ]
        said.append({"name": name, "prediction": winner, "votes": votes, "neighbours": neighbours})
        if number < SHOWN:
            title = f"{shortened(name, 22)}\n{winner}, {votes[winner]:.0%} of the vote"
            cells = [(image, one, None) for image, one in zip(drawn[number], near_called, strict=False)]
            rows.append({"image": images_BxHxWxC[number] / 255, "title": title, "neighbours": cells})
    return said, lambda: neighbours_figure(rows, f"neighbours by {bank.features}; all {bank.k} vote")


def _namer(bank):
    settings = bank.subject.config.data
    return bank.subject.class_names(settings.train_split, settings.validation_split)


def choose_features(subject, *, k, temperature):
    """The features with the best accuracy on a held-out part of the training set.

    Raises:
        UserError: as `knn`.
    """
    settings = subject.config.data
    names = tuple(candidate_names(subject.model.depth))
    train, label_N = split_features(
        subject, settings.train_split, names, indices=labelled(settings, settings.train_split, CHOSEN_ON)
    )
    check_labels(label_N, subject, settings.train_split)
    held_N = held_out_mask(label_N)
    k, accuracy = min(k, int((~held_N).sum())), {}
    for name, rows_NxG in train.items():
        predicted = predict(rows_NxG[~held_N], label_N[~held_N], rows_NxG[held_N], k=k, temperature=temperature)
        accuracy[name] = np.mean(predicted == label_N[held_N])
    return max(accuracy, key=accuracy.get)
