"""The weighted cosine nearest-neighbour classifier (Wu et al. 2018; Caron et al. 2021), in chunks over all devices.

    the k training examples of largest cosine s vote for their class with weight exp(s / T); the heaviest class wins

Ties of the vote go to the smaller class, ties of the cosine to the earlier example. The search is exact unless
`approximate` is set.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from crate_jax.data.own_pictures import picture_data
from crate_jax.data.sources import open_held_out
from crate_jax.distributed.mesh import make_mesh, one_at_a_time
from crate_jax.errors import UserError, check_flag, check_real, check_whole
from crate_jax.evaluation.feature_store import evenly_spaced, image_features, labelled_rows, split_images
from crate_jax.evaluation.features import candidate_names, parse_features
from crate_jax.evaluation.results import Result
from crate_jax.evaluation.selection import CHOSEN_ON, held_out_mask, interval_of
from crate_jax.figures import WRONG, picture_grid, shortened

NEIGHBOURS, TEMPERATURE = 20, 0.07
HELD_OUT_CHOICE = "held-out training examples"
VOTES = 4096  # test examples whose votes are in memory at once
SHOWN, DRAWN = 8, 8  # rows of the figure, and neighbours in a row


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


def unit(x_NxG):
    """Each row over its length; a row of zeros stays."""
    x_NxG = np.asarray(x_NxG, np.float32)
    return x_NxG / np.maximum(np.linalg.norm(x_NxG, axis=1, keepdims=True), 1e-12)


def nearest(train_NxG, test_QxG, *, k=NEIGHBOURS, chunk=16384, query_chunk=2048, mesh=None, approximate=False):
    """The k nearest training examples of each test example.

    Args:
        train_NxG, test_QxG: features; the first may be memory-mapped, in any float type: a chunk is read at a time.
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
        jax.block_until_ready(found)  # else dozens of chunks wait in memory for the device
        bank_MxG = jax.make_array_from_callback(rows_MxG.shape, sharded, rows_MxG.__getitem__)
        for place, (best_QxK, row_QxK, query_QxG) in enumerate(found):
            merged = _merge(
                best_QxK, row_QxK, query_QxG, bank_MxG, first, count, k=k, mesh=mesh, approximate=approximate
            )
            found[place] = (*(jax.block_until_ready(merged) if one_at_a_time(mesh) else merged), query_QxG)
    cosine_QxK, index_QxK = (np.concatenate([np.asarray(one[part]) for one in found]) for part in (0, 1))
    return cosine_QxK, index_QxK


def votes(cosine_QxK, label_QxK, *, temperature=TEMPERATURE, num_classes):
    """How the neighbours vote, as shares of one: QxC."""
    weight_QxK = np.exp((cosine_QxK - cosine_QxK[:, :1]) / temperature)
    votes_QxC = np.zeros((len(label_QxK), num_classes))
    np.add.at(votes_QxC, (np.arange(len(label_QxK))[:, None], label_QxK), weight_QxK)
    return votes_QxC / votes_QxC.sum(1, keepdims=True)


def winners(cosine_QxK, label_QxK, *, temperature=TEMPERATURE, num_classes):
    """(the class with most of the vote, its share) of each test example: of Q x C votes a chunk is in memory."""
    found = []
    for first in range(0, len(label_QxK), VOTES):
        part = slice(first, first + VOTES)
        vote_MxC = votes(cosine_QxK[part], label_QxK[part], temperature=temperature, num_classes=num_classes)
        found.append((vote_MxC.argmax(1), vote_MxC.max(1)))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def predict(train_NxG, train_label_N, test_QxG, *, k=NEIGHBOURS, temperature=TEMPERATURE, **how):
    """The class of each test example: label_Q, integers. The other arguments are those of `nearest`.

    Args:
        train_label_N: integers from 0.
        temperature: T.
    """
    cosine_QxK, index_QxK = nearest(train_NxG, test_QxG, k=k, **how)
    num_classes = int(np.max(train_label_N)) + 1
    label_QxK = np.asarray(train_label_N)[index_QxK]
    return winners(cosine_QxK, label_QxK, temperature=temperature, num_classes=num_classes)[0]


def knn(subject, *, features=None, k=NEIGHBOURS, temperature=TEMPERATURE, pictures=None, approximate=False):
    """Runs the classifier: a `Result`, whose numbers are what `knn.json` holds.

    Args:
        features: POOLING@LAYER; None is what `probe` chose for these parameters, where its probe.json is in the
            subject's folder, else the best on a held-out part of the training set. `features_from` says which.
        k, temperature: neighbours that vote, and T.
        pictures: of `--images=`: they take the place of the held-out split.
        approximate: see `nearest`.

    Raises:
        UserError: no such split, layer or picture, no labels, one class only, fewer examples than k.
    """
    check_whole("--k", k, 1)
    check_real("--temperature", temperature, 1e-3, 1000)
    check_flag("--approximate", approximate)
    if features is not None:
        parse_features(features, subject.model.depth)
    settings = subject.config.data
    if pictures is None:  # first, so that what cannot be read is reported at once
        open_held_out(settings, classify=True)
    else:
        images, names = subject.read_pictures(pictures)
    features, features_from = subject.features_or(
        features, lambda: choose_features(subject, k=k, temperature=temperature), HELD_OUT_CHOICE
    )
    train = labelled_rows(subject, settings.train_split, (features,))
    class_C, train_N = np.unique(train.label_N, return_inverse=True)
    if len(class_C) < 2:
        raise UserError("the training examples have 1 class; a classifier needs two or more.")
    if pictures is None:
        test = labelled_rows(subject, settings.validation_split, (features,))
        query_QxG = test.features[features]
    else:
        query_QxG = image_features(subject, images, features)
    mesh = make_mesh(subject.config.mesh)
    cosine_QxK, row_QxK = nearest(train.features[features], query_QxG, k=k, mesh=mesh, approximate=approximate)
    label_QxK, how = train_N[row_QxK], {"temperature": temperature, "num_classes": len(class_C)}
    called = subject.class_names(settings.train_split, settings.validation_split)
    results = {"k": k, "temperature": temperature, "approximate": approximate, "features": features}
    results |= {"features_from": features_from, "train_examples": len(train_N)}
    if pictures is not None:
        share_QxC = votes(cosine_QxK, label_QxK, **how)
        said = _verdicts(names, train, class_C, called, share_QxC, cosine_QxK, row_QxK)
        results |= {"images": said} | subject.stamp(data=picture_data(images))
        titles = [f"{one['prediction']}\n{one['votes'][one['prediction']]:.0%}" for one in said[:SHOWN]]
        caption = f"Left: prediction and its share of the vote; then the nearest by {features}. All {k} vote."
        rows = (images[:SHOWN], titles, row_QxK[:SHOWN], None, caption, names)
        return Result("knn", results, {"images": said}, {"knn": lambda: _figure(subject, train, called, *rows)})
    place_M, share_M = winners(cosine_QxK, label_QxK, **how)
    winner_M, count = class_C[place_M], len(test.label_N)
    accuracy = float(np.mean(winner_M == test.label_N))
    results = {"accuracy": accuracy, "interval": interval_of(accuracy, count)} | results
    results |= {"test_examples": count} | subject.stamp(settings.validation_split, count)

    def draw():
        shown = evenly_spaced(count, SHOWN)  # neither the best nor the worst
        images = split_images(subject, settings.validation_split, test.index_N[shown])[0]
        titles = [
            f"{called(test.label_N[m])}\n{'✓' if winner_M[m] == test.label_N[m] else '✗'} "
            f"{shortened(called(winner_M[m]), 10)} {share_M[m]:.0%}"
            for m in shown
        ]
        caption = (
            f"{accuracy:.1%} of {count} test examples by {features}, k = {k}. Left: evenly spaced ones: class, "
            f"prediction and its share of the vote; then their nearest training examples. ✗ and a frame: another class."
        )
        return _figure(subject, train, called, images, titles, row_QxK[shown], test.label_N[shown], caption)

    return Result("knn", results, {}, {"knn": draw})


def _verdicts(names, train, class_C, called, share_BxC, cosine_BxK, row_BxK):
    """What `knn.json` says of a person's own pictures: the vote and the neighbours of each."""
    said = []
    for name, share_C, cosine_K, row_K in zip(names, share_BxC, cosine_BxK, row_BxK, strict=True):
        order = [place for place in np.argsort(-share_C, kind="stable") if share_C[place] > 0]
        shares = {called(class_C[place]): float(share_C[place]) for place in order}
        neighbours = [
            {"index": int(train.index_N[row]), "class": called(train.label_N[row]), "cosine": float(cosine)}
            for row, cosine in zip(row_K, cosine_K, strict=True)
        ]
        said.append({"name": name, "prediction": next(iter(shares)), "votes": shares, "neighbours": neighbours})
    return said


def _figure(subject, train, called, images_QxHxWxC, titles, row_QxK, label_Q, caption, names=None):
    """Pictures beside their nearest training examples, framed where the class is another than `label_Q`, if known."""
    row_QxK = row_QxK[:, :DRAWN]
    found = iter(split_images(subject, subject.config.data.train_split, train.index_N[row_QxK.ravel()])[0] / 255)
    rows = []
    for query, (image, title) in enumerate(zip(images_QxHxWxC / 255, titles, strict=True)):
        rows.append([(image, {"title": title})])
        for label in train.label_N[row_QxK[query]]:
            wrong = label_Q is not None and label != label_Q[query]
            said = {"title": f"✗ {called(label)}", "frame": WRONG} if wrong else {"title": called(label)}
            rows[-1].append((next(found), said))
    names = names and [shortened(name, 18) for name in names[:SHOWN]]
    return picture_grid(rows, names=names, side=1.1, caption=caption)


def choose_features(subject, *, k, temperature):
    """The features with the best accuracy on a held-out part of the training set."""
    names = tuple(candidate_names(subject.model.depth))
    train, label_N, _ = labelled_rows(subject, subject.config.data.train_split, names, CHOSEN_ON)
    held_N, accuracy = held_out_mask(label_N), {}
    k = min(k, int((~held_N).sum()))
    for name, rows_NxG in train.items():
        predicted = predict(rows_NxG[~held_N], label_N[~held_N], rows_NxG[held_N], k=k, temperature=temperature)
        accuracy[name] = np.mean(predicted == label_N[held_N])
    return max(accuracy, key=accuracy.get)
