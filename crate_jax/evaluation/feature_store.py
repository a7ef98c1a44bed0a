"""Features of a whole split: one pass for all that are wanted, over all devices, in bounded memory, kept if large.

Small results stay in memory, float32. Large ones are float16 in memory-mapped files under OUT/features/, named by what
they depend on (parameters, network, data, normalisation), so that the next command finds them.
"""

import contextlib
import functools
import getpass
import hashlib
import logging
import math
import os
import pathlib
import tempfile
import time
import uuid
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
from crate_jax.operators.patches import image_shape
from crate_jax.storage import is_remote
from crate_jax.training.objective import normalise

logger = logging.getLogger(__name__)

IN_MEMORY = 2**30  # bytes; more goes to disk
PIXELS_A_BATCH = 2**22  # over the images of a device's batch

RAW = "raw pixels"  # in the place of a feature's name
RAW_SIDE = 32  # pixels at most: more would cost gigabytes and tell no more
SECONDS = 10  # between lines of progress


def batch_size_of(image_size, devices):
    """Images a batch: bounded in pixels, at most 256 a device, a multiple of the devices."""
    return devices * max(1, min(256, PIXELS_A_BATCH // math.prod(image_shape(image_size))))


def split_batches(config, model, split, *, mesh=None, indices=None, size=None):
    """Batches of a split as evaluation sees them (`pipeline.evaluation_batches`), ended with the loop over them.

    Args:
        config: its `data` and `seed`.
        model: the network that the images are for.
        split: of the data set.
        mesh: that batches are sharded over; None gives NumPy arrays.
        indices: of the examples wanted, in order; None is all.
        size: images a batch; None is `batch_size_of`.
    """
    size = size or batch_size_of(model.image_size, mesh.size if mesh else 1)
    sharding = batch_sharding(mesh) if mesh else None
    batches = evaluation_batches(config, split, model.image_size, model.channels, size, sharding, indices=indices)
    try:
        yield from batches
    finally:
        batches.close()


def split_images(subject, split, index_N):
    """Examples of a split by their numbers, without those that are corrupt.

    Returns:
        (images_BxHxWxC uint8, index_B, label_B).
    """
    size = min(batch_size_of(subject.model.image_size, 1), max(len(index_N), 1))
    batches = split_batches(subject.config, subject.model, split, indices=index_N, size=size)
    kept = [[batch[key][batch["valid"]] for key in ("image", "index", "label")] for batch in batches]
    return tuple(np.concatenate(column) for column in zip(*kept, strict=True))


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
    key, folder = _key(subject, source, indices), _local(subject.out)
    paths = {name: folder / f"{key}-{name.replace('@', '-').replace(' ', '-')}.npy" for name in names}
    numbers = folder / f"{key}-labels-and-indices.npy"
    missing = tuple(name for name in names if not paths[name].exists())
    if missing or not numbers.exists():
        logger.info("features of %d examples go to %s", count, folder)
        kept = {name: lengths[name] for name in missing}
        _extract(subject, split, missing, indices, _Files(count, kept, paths, numbers))
    return Rows({name: np.load(path, mmap_mode="r") for name, path in paths.items()}, *np.load(numbers))


def _local(folder):
    """Where memory-mapped files go: into the folder, or of one that is remote or read-only a local one named by it."""
    if not is_remote(folder):
        local = pathlib.Path(folder) / "features"
        with contextlib.suppress(OSError):
            local.mkdir(parents=True, exist_ok=True)
        if os.access(local, os.W_OK):
            return local
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    local = pathlib.Path(tempfile.gettempdir()) / f"crate_jax_{getpass.getuser()}" / name / "features"
    local.mkdir(parents=True, exist_ok=True)
    logger.info("features cannot be mapped in %s, and go to %s; TMPDIR names another disk", folder, local)
    return local


def evenly_spaced(count, most):
    """At most `most` of the numbers below `count`, evenly spaced."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(int))


def _lengths(subject, names):
    model = subject.model
    shape = image_shape(model.image_size)
    image = jax.ShapeDtypeStruct((1, *shape, model.channels), np.float32)
    known = tuple(name for name in names if name != RAW)
    shapes = jax.eval_shape(lambda image: several_features(model, subject.params, image, known), image)
    pixels = math.prod(min(side, RAW_SIDE) for side in shape) * model.channels
    return {name: pixels if name == RAW else shapes[name].shape[1] for name in names}


def _key(subject, source, indices):
    """A key that changes with everything that the features depend on."""
    leaves = ("data_dir", "stage_dir", "prefetch", "num_workers", "worker_processes", "augmentation")
    irrelevant = {f"data.{leaf}" for leaf in leaves}
    data = {k: v for k, v in flatten(subject.config).items() if k.startswith("data.") and k not in irrelevant}
    which = "" if indices is None else hashlib.sha256(np.asarray(indices, np.int64).tobytes()).hexdigest()
    words = (
        f"raw pixels at {RAW_SIDE}",
        subject.identity,
        source.fingerprint,
        source.split,
        which,
        repr(sorted(data.items())),
    )
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
        self._ending = f".{os.getpid()}-{uuid.uuid4().hex[:8]}.partial"  # two commands at once write two files
        self._mapped = {
            name: np.lib.format.open_memmap(self._partial(name), "w+", np.float16, (count, length))
            for name, length in lengths.items()
        }
        self._numbers, self._filled = np.empty((2, count), np.int64), 0

    def _partial(self, name):
        return self._paths[name].with_suffix(self._ending)

    def add(self, features, label_B, index_B):
        end = self._filled + len(label_B)
        for name, rows_BxG in features.items():
            self._mapped[name][self._filled : end] = np.clip(rows_BxG, -65504, 65504)
        self._numbers[:, self._filled : end] = label_B, index_B
        self._filled = end

    def done(self):
        for name, mapped in self._mapped.items():
            mapped.flush()
            if self._filled < self._count:  # corrupt examples were left out
                rows_MxG = np.load(self._partial(name), mmap_mode="r")[: self._filled]
                with self._partial(name).with_suffix(".short").open("wb") as file:
                    np.save(file, rows_MxG)
                self._partial(name).with_suffix(".short").replace(self._partial(name))
            self._partial(name).replace(self._paths[name])
        partial = self._numbers_path.with_suffix(self._ending)
        with partial.open("wb") as file:
            np.save(file, self._numbers[:, : self._filled])
        partial.replace(self._numbers_path)


@functools.partial(jax.jit, static_argnames=("model", "mean", "std", "names"))
def _features_of_batch(params, batch, *, model, mean, std, names):
    images_BxHxWxC = normalise(batch["image"], mean, std)
    found = several_features(model, params, images_BxHxWxC, tuple(name for name in names if name != RAW))
    if RAW in names:
        height, width = (min(side, RAW_SIDE) for side in image_shape(model.image_size))
        small = (len(images_BxHxWxC), height, width, model.channels)
        found[RAW] = jax.image.resize(images_BxHxWxC, small, "linear").reshape(len(images_BxHxWxC), -1)
    return found, batch["label"], batch["index"], batch["valid"]


def _extract(subject, split, names, indices, keeper):
    model, mesh = subject.model, make_mesh(subject.config.mesh)
    # from the host: arrays on one device of a process do not go onto a mesh of several processes
    params = jax.device_put(jax.device_get(subject.params), replicated(mesh))
    mean, std = subject.statistics
    count = subject.open_split(split).num_examples if indices is None else len(indices)
    done, told = 0, time.monotonic()
    for batch in split_batches(subject.config, model, split, mesh=mesh, indices=indices):
        found = _features_of_batch(params, batch, model=model, mean=mean, std=std, names=tuple(names))
        found, label_B, index_B, valid_B = _on_host(found)
        keeper.add({name: rows[valid_B] for name, rows in found.items()}, label_B[valid_B], index_B[valid_B])
        done += len(valid_B)
        if time.monotonic() - told > SECONDS:
            told = time.monotonic()
            logger.info("features of %s, %s: %d of %d examples", subject.source, split, min(done, count), count)
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
