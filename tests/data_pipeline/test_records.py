"""TFDS data sets by index, in both file formats, against what TFDS itself reads."""

import logging
import os
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds

from crate_jax.data import tfrecord_index
from crate_jax.data.picture import decoded
from crate_jax.data.sources import open_source
from crate_jax.errors import UserError


class Builder(tfds.core.GeneratorBasedBuilder):
    """Thirty pictures and a few features that nobody needs; named `thirty`."""

    name = "thirty"
    VERSION = tfds.core.Version("1.2.3")
    url_infos = {}  # noqa: RUF012

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "mask": tfds.features.Image(shape=(None, None, 1)),
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "name": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=["zero", "one", "two"]),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(30)), "unused": self._generate_examples(range(3))}

    def _generate_examples(self, numbers):
        for number in numbers:
            yield (
                number,
                {
                    "mask": np.zeros((3, 3, 1), np.uint8),
                    "image": np.full((4, 5 + number % 3, 3), number, np.uint8),
                    "name": str(number),
                    "label": number % 3,
                },
            )


@pytest.fixture(scope="session", params=["array_record", "tfrecord"])
def thirty(request, tmp_path_factory):
    """TFDS root with the data set in one of the formats, cut into three files."""
    root = tmp_path_factory.mktemp(request.param)
    config = tfds.download.DownloadConfig(num_shards=3)
    Builder(data_dir=str(root), file_format=request.param).download_and_prepare(download_config=config)
    return root


def test_equals_what_tfds_reads(thirty):
    theirs = {}
    builder = tfds.builder_from_directory(thirty / "thirty" / "1.2.3")
    by_array = thirty.name.startswith("array")
    for example in builder.as_data_source("train") if by_array else tfds.as_numpy(builder.as_dataset(split="train")):
        theirs[int(example["image"][0, 0, 0])] = (example["image"], example["label"])
    source = open_source("thirty", "train", thirty)
    order = np.random.default_rng(0).permutation(30)
    examples = source.read(order)
    assert source.class_names == ("zero", "one", "two") and len(theirs) == source.num_examples == 30
    assert {example.identity for example in examples} == {f"thirty/train[{number}]" for number in range(30)}
    for index, example in zip(order, examples, strict=True):
        pixels = np.asarray(decoded(example.image, 3))
        image, label = theirs.pop(int(pixels[0, 0, 0]))
        assert np.array_equal(image, pixels) and label == example.label
        assert source.read([index])[0] == example


def test_slices_across_files(thirty):
    whole = open_source("thirty", "train", thirty).read(np.arange(30))
    part = open_source("thirty", "train[7:25]", thirty)
    assert [example.image for example in part.read(np.arange(18))] == [example.image for example in whole[7:25]]


def test_an_index_past_the_end_is_refused(thirty):
    source = open_source("thirty", "train", thirty)
    for index in (-1, 30):
        with pytest.raises(IndexError):
            source.read([index])


def test_the_folder_of_one_version_may_be_named(thirty):
    assert open_source("thirty", "train", thirty / "thirty" / "1.2.3").num_examples == 30


def test_cost_of_tfrecord_is_said_once_and_paid_once(thirty, caplog):
    if thirty.name.startswith("array"):
        return
    index = thirty / "thirty" / "1.2.3" / "record_offsets.npz"
    index.unlink(missing_ok=True)
    with caplog.at_level(logging.WARNING):
        open_source("thirty", "train", thirty)
    assert "cannot be read by index" in caplog.text and "--file_format=array_record" in caplog.text
    assert "indexing 3 TFRecord files" in caplog.text and index.exists()
    caplog.clear()
    open_source("thirty", "train", thirty)
    assert "indexing" not in caplog.text


def framed(content):
    return struct.pack("<Q", len(content)) + b"\0" * 4 + content + b"\0" * 4


def test_offsets_and_files_that_are_cut_off(tmp_path, monkeypatch):
    path = tmp_path / "records"
    contents = [b"a" * 10, b"", b"b" * 100_000]
    path.write_bytes(b"".join(framed(content) for content in contents))
    file = tfrecord_index.TfRecordFile(str(path), tfrecord_index.offsets_of(str(path)))
    assert file.records([2, 0, 1]) == [contents[2], contents[0], contents[1]]
    with open(path, "rb") as raw:
        monkeypatch.setattr(tfrecord_index, "BLOCK", 64)
        blocks, found = tfrecord_index.Blocks(raw), []
        for place in (0, 26, 42):
            blocks.seek(place)
            found.append(struct.unpack("<Q", blocks.read(12)[:8])[0])
        assert found == [10, 0, 100_000]
    os.truncate(path, 5000)
    with pytest.raises(UserError, match="cut off after 2 records"):
        tfrecord_index.offsets_of(str(path))
    assert isinstance(file.records([2])[0], OSError)


def test_a_data_set_without_images_is_refused(tmp_path):
    class Words(tfds.core.GeneratorBasedBuilder):
        name = "words"
        VERSION = tfds.core.Version("1.0.0")
        url_infos = {}  # noqa: RUF012
        pkg_dir_path = tmp_path

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()})
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {"text": "a"}

    Words(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    with pytest.raises(UserError, match="holds no images"):
        open_source("words", "train", tmp_path)
