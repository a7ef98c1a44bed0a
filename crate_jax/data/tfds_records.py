"""TFDS data sets as records by index: what as_data_source does, without decoding.

TFDS names the file of each record of a split, and its place in it; ArrayRecord files are read at once by
number, from a local disk or `gs://`. TensorFlow is not imported for it. TFRecord files are a chain that can be read
from the beginning only: such a data set is converted once (`conversion`).
"""

import collections
import dataclasses
import hashlib
import json
import os
import re
import threading

import numpy as np
from etils import epath

from crate_jax.cores import raise_file_limit
from crate_jax.data.embedded import EMBEDDED
from crate_jax.data.example import SLICE, Example, Source, bounds
from crate_jax.data.folder_listing import listed
from crate_jax.errors import UserError, first_line, nearest
from crate_jax.storage import is_remote
from crate_jax.storage_errors import Failure, retried, storage_failure, user_errors

OPTIONS = "readahead_buffer_size:0"  # neighbours in a file are not neighbours in the order
DAMAGE = re.compile(r"Corrupted|Invalid|hash mismatch|[Dd]ecompress|[Dd]ecod")  # in ArrayRecord's errors


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of one split, which is cut into pieces of files."""

    split: str  # what its examples are called, such as "cifar10/train"
    base: str  # the folder of the prepared version
    names: list  # the ArrayRecord file of each piece, in `base`
    firsts: np.ndarray  # where each piece begins in the split, with N at the end
    skips: np.ndarray  # records before the piece in its file
    features: object  # of TFDS: the image and, if there is one, the label
    image_key: str
    label_key: str | None

    def relative_paths(self):
        """The files that hold examples, relative to `base`."""
        return list(dict.fromkeys(self.names))

    def read(self, index_B):
        """Examples with the encoded image as bytes (or pixels, where the data set stores tensors)."""
        piece_B = np.searchsorted(self.firsts, index_B, side="right") - 1
        examples = [None] * len(index_B)
        for piece in np.unique(piece_B):
            rows = np.flatnonzero(piece_B == piece)
            numbers = index_B[rows] - self.firsts[piece] + self.skips[piece]
            for row, record in zip(rows, records(f"{self.base}/{self.names[piece]}", numbers), strict=True):
                examples[row] = self._example(f"{self.split}[{index_B[row]}]", record)
        return examples

    def _example(self, identity, record):
        import tensorflow_datasets as tfds

        if isinstance(record, Exception):
            return Example(None, -1, identity, str(record))
        try:
            values = self.features.deserialize_example_np(record, decoders={self.image_key: tfds.decode.SkipDecoding()})
            label = int(values[self.label_key]) if self.label_key else -1
            return Example(values[self.image_key], label, identity)
        except Exception as error:  # a damaged record raises errors of any type
            return Example(None, -1, identity, f"{type(error).__name__}: {error}")


_readers: collections.OrderedDict = collections.OrderedDict()  # by path, the one used last at the end
_readers_lock = threading.Lock()


def _reader(path):
    """A reader of an ArrayRecord file; half of the files that the process may open stay open. OSError if it fails."""
    from array_record.python.array_record_module import ArrayRecordReader

    with _readers_lock:
        if path in _readers:
            _readers.move_to_end(path)
            return _readers[path]
    try:
        reader = ArrayRecordReader(path, options=OPTIONS)
        reader.num_records()  # a file that cannot be read is noticed by the first use only
    except RuntimeError as error:
        raise OSError(str(error)) from None
    with _readers_lock:
        _readers[path] = reader
        while len(_readers) > max(1, raise_file_limit() // 2):
            _readers.popitem(last=False)  # closed when the last thread that reads from it is done
    return reader


def records(path, numbers):
    """Records of one ArrayRecord file by number: a list of bytes, with an exception in place of a damaged record.

    Raises:
        UserError: the file cannot be read.
    """
    numbers = [int(number) for number in numbers]

    def read():
        try:
            return _reader(path).read(numbers)
        except RuntimeError as error:
            with _readers_lock:
                _readers.pop(path, None)  # it is opened again when it is read next
            if DAMAGE.search(str(error)):
                return error
            raise OSError(str(error)) from None

    found = retried(read, path)
    if not isinstance(found, RuntimeError):
        return found
    return [found] if len(numbers) == 1 else [record for number in numbers for record in records(path, [number])]


def import_tfds():
    """TensorFlow Datasets.

    Raises:
        UserError: it is missing, or beside a protobuf that is older than its generated code (Colab's GPU image).
    """
    try:
        import tensorflow_datasets
        import tensorflow_datasets.core  # after a first import that failed, the module is there without it
    except Exception as error:  # protobuf's VersionError is a plain Exception
        why = str(error).strip().split(". ")[0]
        raise UserError(
            "TensorFlow Datasets cannot be imported, which data sets other than image_folder and the embedded ones "
            f"need ({why}); install crate-jax in an environment of its own, with protobuf>=6.31.1."
        ) from error
    return tensorflow_datasets


def read_only_builder(name, data_dir):
    """A TFDS builder of the prepared version of a data set; `data_dir` may be the folder of that version itself.

    Raises:
        UserError: not there, with the command that prepares it; or damaged.
    """
    try:
        tfds = import_tfds()
    except UserError as error:
        if not (hint := _folder(name)):
            raise
        raise UserError(hint if _is_path(name) else f"{error} {hint}") from None  # mnist may be meant as either
    from google.protobuf.json_format import ParseError

    root = os.path.expanduser(str(data_dir or os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR))
    try:
        if data_dir and epath.Path(root, "dataset_info.json").exists():
            return tfds.builder_from_directory(root)
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=root)
    except (json.JSONDecodeError, ParseError) as error:
        raise UserError(
            f"data.name={name} in {root} is damaged ({first_line(error)}); copy or prepare it again."
        ) from None
    except (tfds.core.registered.DatasetNotFoundError, FileNotFoundError, ValueError):
        raise UserError(_missing(name, root)) from None
    except Exception as error:
        if not is_remote(root):
            raise
        # a bucket that is not there, or may not be read: its client's errors are neither OSError nor ValueError
        failure = storage_failure(error) or Failure(first_line(error))
        raise failure.told(f"{_missing(name, root)} Listing it failed") from error


def _missing(name, root):
    """One sentence on a data set that is not there."""
    bare, hint = name.partition("/")[0].partition(":")[0], _folder(name)
    known = {*import_tfds().list_builders(with_community_datasets=False), *EMBEDDED, "image_folder"}
    if hint and (_is_path(name) or bare not in known):
        return hint
    if bare not in known:
        return f"data.name={name} is neither prepared in {root} nor known to TFDS{nearest(bare, known)}"
    command = f"tfds build {name} --data_dir={root} --file_format=array_record"
    tars = f" (after putting ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into {root}/downloads/manual)"
    by_hand = tars if bare == "imagenet2012" else ""
    said = f"data.name={name} is not prepared in {root}; run {command}{by_hand}, or set data.data_dir."
    return f"{said} {hint}" if hint else said


def _folder(name):
    """A sentence where a folder of this name is here, which `data.name` never reads; else an empty text."""
    if not os.path.isdir(os.path.expanduser(name)):
        return ""
    return f"{name} is a folder; for its pictures set data.name=image_folder and data.data_dir={name}."


def _is_path(name):
    return name.startswith((".", "~", os.sep))


def open_records(name, split, data_dir):
    """A Source of one split of a TFDS data set, see `sources.open_source`.

    Raises:
        UserError: missing data set or split, no images, or another format than ArrayRecord.
    """
    builder, tfds = read_only_builder(name, data_dir), import_tfds()
    features = builder.info.features
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    if not images:
        raise UserError(f"data.name={name} holds no images (its features: {', '.join(features)}); choose another one.")
    image_key = "image" if "image" in images else images[0]
    label_key = "label" if "label" in labels else next(iter(labels), None)
    label = features[label_key] if label_key else None
    try:
        pieces = builder.info.splits[split].file_instructions
    except (KeyError, ValueError, AssertionError):
        known = ", ".join(f"{key} ({one.num_examples})" for key, one in builder.info.splits.items())
        raise UserError(
            f"data.name={name} has no split {split!r}; it has {known}, and slices of them such as train[:90%]."
        ) from None
    for part in split.split("+"):
        if found := SLICE.match(part.strip()):  # else it is of TFDS's own syntax
            bounds(found["first"], found["last"], builder.info.splits[found["split"]].num_examples)
    file_format = builder.info.file_format.value
    if file_format != "array_record":
        way = (
            "convert it once with crate-jax data --config=CONFIG --to=array_record --out=FOLDER, "
            "and set data.data_dir=FOLDER"
            if file_format == "tfrecord"
            else "prepare it with --file_format=array_record"
        )
        raise UserError(f"{builder.data_dir} is stored as {file_format}, which cannot be read by index; {way}.")
    names = [os.path.basename(piece.filename) for piece in pieces]
    with user_errors(f"{builder.data_dir} cannot be listed"):
        there = {path.name for path in epath.Path(builder.data_dir).iterdir()}
    if missing := [name for name in dict.fromkeys(names) if name not in there]:
        raise UserError(
            f"{len(missing)} of {len(set(names))} files of data.name={name} are not in {builder.data_dir}: "
            f"{listed(missing)}; copy or prepare it again."
        )
    # TFDS writes -1 for all that follow
    takes = [piece.examples_in_shard - piece.skip if piece.take < 0 else piece.take for piece in pieces]
    words = [f"{file} {piece.skip} {take}" for file, piece, take in zip(names, pieces, takes, strict=True)]
    return Source(
        name=name,
        split=split,
        num_examples=sum(takes),
        class_names=tuple(label.names) if label is not None and label.num_classes else None,
        identity_hash=hashlib.sha256("\n".join([builder.info.full_name, *words]).encode()).hexdigest(),
        location=str(builder.data_dir),
        store=Records(
            split=f"{name}/{split}",
            base=str(builder.data_dir),
            firsts=np.cumsum([0, *takes], dtype=np.int64),
            skips=np.array([piece.skip for piece in pieces], np.int64),
            names=names,
            features=tfds.features.FeaturesDict({key: features[key] for key in (image_key, label_key) if key}),
            image_key=image_key,
            label_key=label_key,
        ),
    )
