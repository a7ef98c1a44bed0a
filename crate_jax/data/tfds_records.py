"""TFDS data sets as records by index: what as_data_source does, without decoding, and for TFRecords too.

TFDS says in which file, after how many others, each record of a split lies. ArrayRecord files are read at once by
number. A TFRecord file is a chain (length, checksum, record, checksum) that can be entered at any link, once it is
known where the links are: `tfrecord_index` finds out, once. TensorFlow is not imported for either.
"""

import dataclasses
import hashlib
import logging
import os
import threading

import numpy as np

from crate_jax.data.example import Example
from crate_jax.data.preparation import EMBEDDED, tfds_data_dir
from crate_jax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of one split.

    Attributes:
        name, split: as they were asked for.
        location: the folder of the prepared version.
        firsts: where each piece of a file begins in the split, with N at the end.
        skips: records before the piece in its file.
        files: an object per piece with `records(numbers) -> list of bytes`.
        features: TFDS features of the image and, if there is one, the label.
        image_key, label_key: their names; label_key may be None.
        class_names: tuple or None.
        num_classes: or None.
        identity_hash: of the version's description and the pieces.
    """

    name: str
    split: str
    location: str
    firsts: np.ndarray
    skips: np.ndarray
    files: list
    features: object
    image_key: str
    label_key: str | None
    class_names: tuple | None
    num_classes: int | None
    identity_hash: str

    @property
    def num_examples(self):
        return int(self.firsts[-1])

    def read(self, indices):
        """Examples with the encoded image as bytes (or pixels, where the data set stores tensors)."""
        piece_B = np.searchsorted(self.firsts, indices, side="right") - 1
        examples = [None] * len(indices)
        for piece in np.unique(piece_B):
            rows = np.flatnonzero(piece_B == piece)
            numbers = indices[rows] - self.firsts[piece] + self.skips[piece]
            for row, record in zip(rows, self.files[piece].records(numbers), strict=True):
                examples[row] = self._example(int(indices[row]), record)
        return examples

    def _example(self, index, record):
        import tensorflow_datasets as tfds

        identity = f"{self.name}/{self.split}[{index}]"
        if isinstance(record, Exception):
            return Example(None, -1, identity, str(record))
        try:
            values = self.features.deserialize_example_np(record, decoders={self.image_key: tfds.decode.SkipDecoding()})
            label = int(values[self.label_key]) if self.label_key else -1
            return Example(values[self.image_key], label, identity)
        except Exception as error:  # a damaged record raises whatever its damage leads to
            return Example(None, -1, identity, f"{type(error).__name__}: {error}")


class ArrayRecordFile:
    """One ArrayRecord file, opened when it is first read, by whichever thread."""

    def __init__(self, path):
        self.path = path
        self.lock = threading.Lock()
        self.reader = None

    def __reduce__(self):  # neither a lock nor an open file travels to another process
        return ArrayRecordFile, (self.path,)

    def records(self, numbers):
        """Records by their number in the file; an exception in place of one that cannot be read."""
        from array_record.python.array_record_module import ArrayRecordReader

        try:
            with self.lock:
                if self.reader is None:  # no read-ahead: neighbours in the file are not neighbours in the order
                    self.reader = ArrayRecordReader(self.path, options="readahead_buffer_size:0")
            return self.reader.read([int(number) for number in numbers])
        except Exception as error:
            if len(numbers) == 1:
                return [error]
            return [record for number in numbers for record in self.records([number])]


def read_only_builder(name, data_dir):
    """The prepared version of a TFDS data set.

    Args:
        name: "name", "name/config" or "name/config:version".
        data_dir: TFDS's root folder, or the folder of one version itself; None is TFDS's own place.

    Returns:
        A TFDS builder that only reads.

    Raises:
        UserError: not there; with the command that prepares it.
    """
    import tensorflow_datasets as tfds

    root = tfds_data_dir(data_dir)
    if data_dir and os.path.exists(os.path.join(root, "dataset_info.json")):
        return tfds.builder_from_directory(root)
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=root)
    except (tfds.core.registered.DatasetNotFoundError, FileNotFoundError, ValueError):
        raise UserError(missing(name, root)) from None


def missing(name, root):
    """One sentence on a data set that is not there."""
    import tensorflow_datasets as tfds

    bare = name.partition("/")[0].partition(":")[0]
    known = {*tfds.list_builders(with_community_datasets=False), *EMBEDDED, "image_folder"}
    if bare not in known:
        return f"data.name={name} is neither prepared in {root} nor known to TFDS{nearest(bare, known)}"
    command = f"tfds build {name} --data_dir={root} --file_format=array_record"
    tars = f" (after putting ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into {root}/downloads/manual)"
    by_hand = tars if bare == "imagenet2012" else ""
    return f"data.name={name} is not prepared in {root}; run {command}{by_hand}, or set data.data_dir."


def image_and_label(name, features):
    """Which features are the image and the label.

    Args:
        name: of the data set.
        features: TFDS FeaturesDict.

    Returns:
        image_key, label_key or None.

    Raises:
        UserError: there is no image.
    """
    import tensorflow_datasets as tfds

    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    if not images:
        raise UserError(f"data.name={name} holds no images (its features: {', '.join(features)}); choose another one.")
    return ("image" if "image" in images else images[0]), ("label" if "label" in labels else next(iter(labels), None))


def open_records(name, split, data_dir):
    """The records of one split of a TFDS data set.

    Args:
        name: of the data set, config and version if wanted.
        split: with TFDS's slicing syntax.
        data_dir: TFDS's root folder; None is TFDS's own place.

    Returns:
        Records.

    Raises:
        UserError: missing data set or split, no images.
    """
    import tensorflow_datasets as tfds

    builder = read_only_builder(name, data_dir)
    image_key, label_key = image_and_label(name, builder.info.features)
    try:
        pieces = builder.info.splits[split].file_instructions
    except (KeyError, ValueError, AssertionError):
        known = ", ".join(builder.info.splits)
        raise UserError(
            f"data.name={name} has no split {split!r}; it has {known}, and slices of them such as train[:90%]."
        ) from None
    features = builder.info.features
    kept = {key: features[key] for key in (image_key, label_key) if key}
    label = features[label_key] if label_key else None
    takes = [piece_length(piece) for piece in pieces]
    words = [f"{os.path.basename(p.filename)} {p.skip} {take}" for p, take in zip(pieces, takes, strict=True)]
    return Records(
        name=name,
        split=split,
        location=str(builder.data_dir),
        firsts=np.cumsum([0, *takes], dtype=np.int64),
        skips=np.array([piece.skip for piece in pieces], np.int64),
        files=record_files(builder, pieces),
        features=tfds.features.FeaturesDict(kept),
        image_key=image_key,
        label_key=label_key,
        class_names=tuple(label.names) if label is not None and label.num_classes else None,
        num_classes=label.num_classes if label is not None else None,
        identity_hash=hashlib.sha256("\n".join([builder.info.full_name, *words]).encode()).hexdigest(),
    )


def piece_length(piece):
    """Records that one piece of a file contributes; TFDS writes -1 for all that follow."""
    return piece.examples_in_shard - piece.skip if piece.take < 0 else piece.take


def record_files(builder, pieces):
    """An object that reads records by number for each piece; pieces of one file share it."""
    paths = list(dict.fromkeys(str(piece.filename) for piece in pieces))
    file_format = builder.info.file_format.value
    if file_format == "array_record":
        opened = {path: ArrayRecordFile(path) for path in paths}
    elif file_format == "tfrecord":
        from crate_jax.data import tfrecord_index

        logging.warning(
            "%s is stored as TFRecord, which cannot be read by index: each file is read through once for an index; "
            "prepared with --file_format=array_record it would not be.",
            builder.info.full_name,
        )
        opened = tfrecord_index.open_files(paths, str(builder.data_dir))
    else:
        raise UserError(
            f"{builder.info.full_name} is stored as {file_format}; prepare it with --file_format=array_record."
        )
    return [opened[str(piece.filename)] for piece in pieces]
