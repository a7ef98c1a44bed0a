"""Features of a whole split: one pass for all that are wanted, over all devices, in bounded memory, kept if large.

Small results stay in memory, float32. Large ones are float16 in memory-mapped files under OUT/features/, named by what
they depend on (parameters, network, data, normalisation), so that the next command finds them.
"""

import hashlib
import logging
import pathlib
from typing import NamedTuple

import jax
import numpy as np

from crate_jax.config import flatten
from crate_jax.data.pipeline import evaluation_batches
from crate_jax.data.sources import open_source
from crate_jax.distributed.mesh import make_mesh
from crate_jax.distributed.sharding import batch_sharding, replicated
from crate_jax.errors import UserError
from crate_jax.evaluation.features import parse_features, several_features
from crate_jax.training.objective import normalise

logger = logging.getLogger(__name__)

IN_MEMORY = 2**30  # bytes; more goes to disk
PIXELS_A_BATCH = 2**22  # over the images of a device's batch

RAW = "raw pixels"  # in the place of a feature's name


def batch_size_of(image_size, devices):
    """Images a batch: bounded in pixels, at most 256 a device, a multiple of the devices."""
    return devices * max(1, min(256, PIXELS_A_BATCH // image_size**2))


def sample(settings, split, most):
    """Indices of at most `most` examples from all over a split, in its order, the same each time; None is all.

    Args:
        settings: the config's `data`.
        split: of the data set.
        most: how many at most.
    """
    return drawn(open_source(settings.name, split, settings.data_dir).num_examples, most)


def drawn(count, most):
    """At most `most` of `count` numbers, ascending, the same each time; None is all of them."""
    return None if most is None or count <= most else np.sort(np.random.RandomState(0).permutation(count)[:most])


def labelled(settings, split, most=None):
    """Indices of the examples of a split that have a label, in its order; None is all examples.

    Args:
        settings: the config's `data`.
        split: of the data set.
        most: how many at most; see `sample`.
    """
    index_N = open_source(settings.name, split, settings.data_dir).labelled
    if index_N is None:
        return sample(settings, split, most)
    chosen = drawn(len(index_N), most)
    return index_N if chosen is None else index_N[chosen]


class Rows(NamedTuple):
    """Features of a split, a row an example; corrupt examples are left out.

    Attributes:
        features: dictionary from name to features_NxG: float32 arrays, or float16 memory-mapped ones.
        label_N: integers, -1 where there is none.
        index_N: the examples' numbers in the split.
    """

    features: dict
    label_N: np.ndarray
    index_N: np.ndarray


def split_features(subject, split, names, *, indices=None):
    """Features and labels of a split: (features, label_N) of `split_rows`."""
    return split_rows(subject, split, names, indices=indices)[:2]


def split_rows(subject, split, names, *, indices=None):
    """Features, labels and numbers of a split's examples.

    Args:
        subject: a `Subject`.
        split: of its data set.
        names: POOLING@LAYER, or RAW.
        indices: of the examples wanted, in order; None is all.

    Returns:
        `Rows`.

    Raises:
        UserError: no such split or layer; no labels are no error here.
    """
    for name in names:
        if name != RAW:
            parse_features(name, subject.model.depth)
    settings = subject.config.data
    source = open_source(settings.name, split, settings.data_dir)
    count = source.num_examples if indices is None else len(indices)
    lengths = _lengths(subject, names)
    if 4 * count * sum(lengths.values()) <= IN_MEMORY or jax.process_count() > 1:
        return _extract(subject, split, names, indices, _Memory(count, lengths))
    key = _key(subject, source, indices)
    folder = pathlib.Path(subject.out) / "features"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{key}-{name.replace('@', '-').replace(' ', '-')}.npy" for name in names}
    numbers = folder / f"{key}-labels-and-indices.npy"
    missing = tuple(name for name in names if not paths[name].exists())
    if missing or not numbers.exists():
        logger.info("features of %d examples go to %s", count, folder)
        kept = {name: lengths[name] for name in missing}
        _extract(subject, split, missing, indices, _Files(count, kept, paths, numbers))
    return Rows({name: np.load(path, mmap_mode="r") for name, path in paths.items()}, *np.load(numbers))


def _lengths(subject, names):
    model = subject.model
    image = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, model.channels), np.float32)
    known = tuple(name for name in names if name != RAW)
    shapes = jax.eval_shape(lambda image: several_features(model, subject.params, image, known), image)
    pixels = model.image_size**2 * model.channels
    return {name: pixels if name == RAW else shapes[name].shape[1] for name in names}


def _key(subject, source, indices):
    """Changes with whatever the features depend on."""
    leaves = ("data_dir", "stage_dir", "prefetch", "num_workers", "worker_processes", "augmentation")
    irrelevant = {f"data.{leaf}" for leaf in leaves}
    data = {k: v for k, v in flatten(subject.config).items() if k.startswith("data.") and k not in irrelevant}
    which = "" if indices is None else hashlib.sha256(np.asarray(indices, np.int64).tobytes()).hexdigest()
    words = (subject.identity, source.fingerprint, source.split, which, repr(sorted(data.items())))
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


class _Memory:
    """Rows in arrays."""

    def __init__(self, count, lengths):
        self._features = {name: np.empty((count, length), np.float32) for name, length in lengths.items()}
        self._numbers = np.empty((2, count), np.int64)
        self._filled = 0

    def add(self, features, label_B, index_B):
        end = self._filled + len(label_B)
        for name, rows_BxG in features.items():
            self._features[name][self._filled : end] = rows_BxG
        self._numbers[:, self._filled : end] = label_B, index_B
        self._filled = end

    def done(self):
        kept = {name: rows[: self._filled] for name, rows in self._features.items()}
        return Rows(kept, *self._numbers[:, : self._filled])


class _Files:
    """Rows in memory-mapped files, under their names once they are whole."""

    def __init__(self, count, lengths, paths, numbers):
        self._count, self._paths, self._numbers_path = count, paths, numbers
        self._mapped = {
            name: np.lib.format.open_memmap(self._partial(name), "w+", np.float16, (count, length))
            for name, length in lengths.items()
        }
        self._numbers, self._filled = np.empty((2, count), np.int64), 0

    def _partial(self, name):
        return self._paths[name].with_suffix(".partial")

    def add(self, features, label_B, index_B):
        end = self._filled + len(label_B)
        for name, rows_BxG in features.items():
            self._mapped[name][self._filled : end] = np.clip(rows_BxG, -65504, 65504)
        self._numbers[:, self._filled : end] = label_B, index_B
        self._filled = end

    def done(self):
        short = self._filled < self._count  # corrupt examples were left out
        for name, mapped in self._mapped.items():
            mapped.flush()
            if short:
                whole = np.load(self._partial(name), mmap_mode="r")[: self._filled]
                np.save(self._partial(name).with_suffix(".short.npy"), whole)
                self._partial(name).with_suffix(".short.npy").rename(self._partial(name))
            self._partial(name).rename(self._paths[name])
        np.save(self._numbers_path, self._numbers[:, : self._filled])
        return None


def _extract(subject, split, names, indices, keeper):
    model, mesh = subject.model, make_mesh(subject.config.mesh)
    size = batch_size_of(model.image_size, mesh.size)
    spread = batch_sharding(mesh)
    # from the host: arrays on one device of a process do not go onto a mesh of several processes
    params = jax.device_put(jax.device_get(subject.params), replicated(mesh))
    mean, std = subject.statistics
    known = tuple(name for name in names if name != RAW)

    @jax.jit
    def features_of(params, batch):
        images_BxHxWxC = normalise(batch["image"], mean, std)
        found = several_features(model, params, images_BxHxWxC, known)
        if RAW in names:
            found[RAW] = images_BxHxWxC.reshape(len(images_BxHxWxC), -1)
        return found, batch["label"], batch["index"], batch["valid"]

    batches = evaluation_batches(subject.config, split, model.image_size, model.channels, size, spread, indices=indices)
    try:
        for batch in batches:
            found, label_B, index_B, valid_B = _on_host(features_of(params, batch))
            kept = {name: rows[valid_B] for name, rows in found.items()}
            keeper.add(kept, label_B[valid_B], index_B[valid_B])
    finally:
        batches.close()
    return keeper.done()


def _on_host(tree):
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def check_labels(label_N, subject, split):
    """Refuses examples without labels.

    Raises:
        UserError: there are some.
    """
    if not len(label_N) or np.min(label_N) < 0:
        raise UserError(
            f"data.name={subject.config.data.name} has no labels in split {split!r}, and this needs them; "
            f"name a labelled data set by --config.data.name."
        )
