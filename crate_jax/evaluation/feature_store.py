"""Features of a whole split: one pass for all that are wanted, over all devices, in bounded memory, kept if large.

Small results stay in memory, float32. Large ones are float16 in memory-mapped files under OUT/features/, named by what
they depend on (parameters, network, data, normalisation), so that the next command finds them.
"""

import contextlib
import hashlib
import logging
import math
import os
import pathlib
import tempfile
import time
from typing import NamedTuple

import jax
import numpy as np

from crate_jax.config import flatten
from crate_jax.data.pipeline import evaluation_batches
from crate_jax.distributed.mesh import make_mesh
from crate_jax.distributed.sharding import batch_sharding, replicated
from crate_jax.errors import UserError, warn_once
from crate_jax.evaluation.features import RAW_SIDE, feature_length, several_features
from crate_jax.models.batches import over_images
from crate_jax.operators.patches import image_shape
from crate_jax.storage import check_space, is_remote, own_mark
from crate_jax.version import __version__

logger = logging.getLogger(__name__)

IN_MEMORY = 2**30  # bytes; more goes to disk
PIXELS_A_BATCH = 2**22  # over the images of a device's batch
LARGEST_HALF = float(np.finfo(np.float16).max)
SECONDS = 10  # between lines of progress


def batch_size_of(image_size, devices=1):
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


def sum_over(function, config, model, split, **options):
    """The sum over a split's batches of what a compiled function of a batch returns, a tree of arrays: float64.

    The other arguments are those of `split_batches`.
    """
    found = [jax.device_get(function(batch)) for batch in split_batches(config, model, split, **options)]
    return jax.tree.map(lambda *parts: np.sum(parts, 0, np.float64), *found)


def split_images(subject, split, index_N):
    """Examples of a split by their numbers, without those that are corrupt.

    Returns:
        (images_BxHxWxC uint8, index_B, label_B).
    """
    size = min(batch_size_of(subject.model.image_size), max(len(index_N), 1))
    batches = split_batches(subject.config, subject.model, split, indices=index_N, size=size)
    kept = [[batch[key][batch["valid"]] for key in ("image", "index", "label")] for batch in batches]
    return tuple(np.concatenate(column) for column in zip(*kept, strict=True))


def evenly_spaced(count, most):
    """At most `most` of the numbers below `count`, evenly spaced."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(int))


def sample(count, most=None):
    """At most `most` of the numbers below `count`, from all over, ascending, the same each time."""
    if most is None or count <= most:
        return np.arange(count)
    return np.sort(np.random.RandomState(0).permutation(count)[:most])


class NoLabels(UserError):
    """No example of a split has a label."""

    def __init__(self, settings, split):
        super().__init__(
            f"data.name={settings.name} has no labels in split {split!r}, and this needs them; name a labelled data "
            f"set by --config.data.name, or another split."
        )


def labelled(subject, split, most=None):
    """Numbers of the examples of a split that have a label, at most so many, as `sample` draws them.

    Examples whose labels are known only when they are read count as labelled.

    Raises:
        NoLabels: none has one.
    """
    source = subject.open_split(split)
    if not source.num_classes or (source.labels is not None and source.labels.max() < 0):
        raise NoLabels(subject.config.data, split)
    if source.labelled is None:
        return sample(source.num_examples, most)
    return source.labelled[sample(len(source.labelled), most)]


class Rows(NamedTuple):
    """Features of a split, a row an example; corrupt examples are left out."""

    features: dict  # name to features_NxG: float32 arrays, or float16 memory-mapped ones
    label_N: np.ndarray  # integers, -1 where there is none
    index_N: np.ndarray  # the examples' numbers in the split


def labelled_rows(subject, split, names, most=None):
    """`split_rows` of the examples that have a label, at most so many.

    Raises:
        NoLabels: none has one.
        UserError: as `split_rows`.
    """
    rows = split_rows(subject, split, names, indices=labelled(subject, split, most))
    known = rows.index_N[rows.label_N >= 0]
    if not len(known):
        raise NoLabels(subject.config.data, split)
    if len(known) == len(rows.index_N):
        return rows
    warn_once(f"{len(rows.index_N) - len(known)} of {len(rows.index_N)} examples of {split} have no label: left out.")
    if all(isinstance(rows_NxG, np.memmap) for rows_NxG in rows.features.values()):
        return split_rows(subject, split, names, indices=known)  # which stay on disk
    kept_N = rows.label_N >= 0
    return Rows({name: rows_NxG[kept_N] for name, rows_NxG in rows.features.items()}, rows.label_N[kept_N], known)


def split_rows(subject, split, names, *, indices=None):
    """`Rows` of a split's examples.

    Args:
        split: of the subject's data set.
        names: POOLING@LAYER, or RAW.
        indices: of the examples wanted, in order; None is all.

    Raises:
        UserError: no such split or layer; no labels are no error here.
    """
    lengths, source = {name: feature_length(name, subject.model) for name in names}, subject.open_split(split)
    indices = np.arange(source.num_examples) if indices is None else indices
    count = len(indices)
    if in_memory(subject, names, count):
        arrays = {name: np.empty((count, length), np.float32) for name, length in lengths.items()}
        numbers_2xM = _extract(subject, split, indices, arrays)
        return Rows({name: rows[: numbers_2xM.shape[1]] for name, rows in arrays.items()}, *numbers_2xM)
    key, folder = _key(subject, source, indices), _local(subject.out)
    paths = {name: folder / f"{key}-{name.replace('@', '-').replace(' ', '-')}.npy" for name in names}
    numbers = folder / f"{key}-labels-and-indices.npy"
    missing = {name: path for name, path in paths.items() if not path.exists()}
    if missing or not numbers.exists():
        _check_space(folder, 2 * count * sum(lengths[name] for name in missing))
        logger.info("features of %d examples go to %s", count, folder)
        ending = f".{own_mark()}.partial"
        try:
            arrays = {
                name: np.lib.format.open_memmap(path.with_suffix(ending), "w+", np.float16, (count, lengths[name]))
                for name, path in missing.items()
            }
            numbers_2xM = _extract(subject, split, indices, arrays)
            for name, path in missing.items():
                arrays[name].flush()
                path.with_suffix(ending).replace(path)
            with numbers.with_suffix(ending).open("wb") as file:
                np.save(file, numbers_2xM)
            numbers.with_suffix(ending).replace(numbers)
        finally:
            for draft in folder.glob(f"*{ending}"):  # gigabytes, of what was interrupted
                draft.unlink()
    numbers_2xM = np.load(numbers)  # the files have unused rows at their end where examples are corrupt
    mapped = {name: np.load(path, mmap_mode="r")[: numbers_2xM.shape[1]] for name, path in paths.items()}
    return Rows(mapped, *numbers_2xM)


def _local(folder):
    """Where memory-mapped files go: into the folder, or of one that is remote or read-only a local one named by it."""
    if not is_remote(folder):
        local = pathlib.Path(folder) / "features"
        with contextlib.suppress(OSError):
            local.mkdir(parents=True, exist_ok=True)
        if os.access(local, os.W_OK):
            return local
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    local = pathlib.Path(tempfile.gettempdir()) / f"crate_jax_{os.getuid()}" / name / "features"
    local.mkdir(parents=True, exist_ok=True)
    logger.info("features cannot be mapped in %s, and go to %s; TMPDIR names another disk", folder, local)
    return local


def _check_space(folder, needed):
    """Raises UserError where so many bytes do not fit: a mapped file that outgrows its disk ends the process."""
    check_space(folder, needed, "of features are to be written; free space, or name a folder on another disk by --out.")


def _key(subject, source, indices):
    """A key that changes with everything that the features depend on."""
    leaves = ("data_dir", "stage_dir", "prefetch", "num_workers", "worker_processes", "augmentation")
    irrelevant = {f"data.{leaf}" for leaf in leaves}
    data = {k: v for k, v in flatten(subject.config).items() if k.startswith("data.") and k not in irrelevant}
    which = hashlib.sha256(np.asarray(indices, np.int64).tobytes()).hexdigest()
    words = [__version__, f"raw pixels at {RAW_SIDE}", subject.identity]
    words += [source.fingerprint, source.split, which, _times(source)]
    words.append(repr(sorted(data.items())))
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def _times(source):
    """A digest of when a split's local files were changed last: an edited picture may keep its size."""
    base, digest = getattr(source.store, "base", None), hashlib.sha256()
    if base is not None and not is_remote(base):
        for path in source.store.relative_paths():
            with contextlib.suppress(OSError):  # reading it will tell
                digest.update(b"%d\n" % os.stat(os.path.join(base, path)).st_mtime_ns)
    return digest.hexdigest()


def in_memory(subject, names, count):
    """Whether the features of so many examples stay in memory."""
    return (
        4 * count * sum(feature_length(name, subject.model) for name in names) <= IN_MEMORY or jax.process_count() > 1
    )


def _extract(subject, split, indices, arrays):
    """Fills arrays, a row an example that can be read, from their start: (label_M, index_M) of those examples."""
    mesh, names = make_mesh(subject.config.mesh), tuple(arrays)
    # from the host: arrays on one device of a process do not go onto a mesh of several processes
    params = jax.device_put(jax.device_get(subject.params), replicated(mesh))
    numbers_2xN, filled, told = np.empty((2, len(indices)), np.int64), 0, time.monotonic()
    for batch in split_batches(subject.config, subject.model, split, mesh=mesh, indices=indices):
        found = several_features(subject.model, params, batch["image"], names, subject.statistics)
        found, label_B, index_B, valid_B = _on_host((found, batch["label"], batch["index"], batch["valid"]))
        rows, filled = slice(filled, filled + valid_B.sum()), filled + valid_B.sum()
        numbers_2xN[:, rows] = label_B[valid_B], index_B[valid_B]
        for name, array in arrays.items():
            rows_MxG = found[name][valid_B]
            array[rows] = np.clip(rows_MxG, -LARGEST_HALF, LARGEST_HALF) if array.dtype == np.float16 else rows_MxG
        if time.monotonic() - told > SECONDS:
            told = time.monotonic()
            logger.info("features of %s, %s: %d of %d examples", subject.source, split, filled, len(indices))
    return numbers_2xN[:, :filled]


def _on_host(tree):
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def image_features(subject, images_BxHxWxC, features):
    """features_BxG (POOLING@LAYER) of uint8 images in memory, such as a person's own pictures."""

    def of(image_BxHxWxC):
        return several_features(subject.model, subject.params, image_BxHxWxC, (features,), subject.statistics)[features]

    size = min(batch_size_of(subject.model.image_size), len(images_BxHxWxC))
    return over_images(of, images_BxHxWxC, axis=0, size=size)
