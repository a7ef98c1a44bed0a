"""TFDS data sets by index, prepared as ArrayRecord or converted to it, against what TFDS itself reads."""

import json
import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from crate_jax.config import default_config
from crate_jax.data import pipeline, staging, tfds_records
from crate_jax.data.conversion import convert
from crate_jax.data.picture import decoded
from crate_jax.data.sources import open_source
from crate_jax.data.tfds_records import records
from crate_jax.errors import UserError
from tests.tfds import tfds


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
        return {"train": self._generate_examples(range(30)), "unused": self._generate_examples(range(30))}

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


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """File format -> TFDS root with the data set in it, cut into three files."""
    roots = {}
    for file_format in ("array_record", "tfrecord"):
        roots[file_format] = tmp_path_factory.mktemp(file_format)
        config = tfds.download.DownloadConfig(num_shards=3)
        builder = Builder(data_dir=str(roots[file_format]), file_format=file_format)
        builder.download_and_prepare(download_config=config)
    return roots


@pytest.fixture(scope="session", params=["prepared", "converted"])
def thirty(request, stored, tmp_path_factory):
    """TFDS root with the data set as ArrayRecord files."""
    if request.param == "prepared":
        return stored["array_record"]
    root = tmp_path_factory.mktemp("converted")
    convert("thirty", stored["tfrecord"], root, progress=lambda line: None)
    return root


def test_equals_what_tfds_reads(thirty, stored):
    theirs = {}
    builder = tfds.builder_from_directory(stored["tfrecord"] / "thirty" / "1.2.3")
    for example in tfds.as_numpy(builder.as_dataset(split="train")):
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


def test_tfds_itself_reads_what_was_converted(thirty):
    builder = tfds.builder_from_directory(thirty / "thirty" / "1.2.3")
    assert len(list(builder.as_data_source("train"))) == 30 and len(builder.as_data_source("unused")) == 30


def test_reading_does_not_import_tensorflow(thirty):
    code = (
        "import sys; from crate_jax.data.sources import open_source; "
        f"assert open_source('thirty', 'train', {str(thirty)!r}).read([3])[0].image; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_data_set_as_tfrecord_names_the_command(stored):
    with pytest.raises(UserError, match=r"stored as tfrecord.*crate-jax data --config=CONFIG --to=array_record"):
        open_source("thirty", "train", stored["tfrecord"])


def test_conversion_keeps_bytes_and_resumes(stored, tmp_path):
    folder = stored["tfrecord"] / "thirty" / "1.2.3"
    lines = []
    target = convert("thirty", stored["tfrecord"], tmp_path, progress=lines.append)
    names = sorted(entry.name for entry in (tmp_path / "thirty" / "1.2.3").iterdir())
    assert names == [name.replace("tfrecord", "array_record") for name in sorted(os.listdir(folder))]
    assert lines[-1] == f"{len(lines)} of {len(lines)} files" and target == str(tmp_path / "thirty" / "1.2.3")
    source = open_source("thirty", "train", tmp_path)
    (first,) = records(f"{source.location}/{source.store.names[0]}", [0])
    content = next(folder.glob("thirty-train*-00000-of-*")).read_bytes()
    assert first == content[12 : 12 + struct.unpack_from("<Q", content)[0]]  # length, its checksum, the record
    kept, lost = sorted((tmp_path / "thirty" / "1.2.3").glob("thirty-train*"))[:2]
    before = kept.stat().st_mtime_ns
    lost.unlink()
    convert("thirty", stored["tfrecord"], tmp_path, progress=lines.append)
    assert lost.exists() and kept.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="only tfrecord is converted"):
        convert("thirty", tmp_path, tmp_path / "again")


def test_a_damaged_tfrecord_is_named(stored, tmp_path):
    """Cut off, or with a length that is none; nothing is left of it but what was whole."""
    root = tmp_path / "tfrecord"
    shutil.copytree(stored["tfrecord"], root)
    path = next((root / "thirty" / "1.2.3").glob("thirty-train*"))
    content = path.read_bytes()
    for damaged, whole in ((content[:-3], r"\d+"), (content[:7] + b"\x7f" + content[8:], "0")):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{path.name} holds {whole} whole records where its dataset_info.json"):
            convert("thirty", root, tmp_path / "out", progress=lambda line: None)
        assert not (tmp_path / "out" / "thirty" / "1.2.3" / "dataset_info.json").exists()
        assert not list((tmp_path / "out").rglob(f"{path.name.replace('tfrecord', 'array_record')}"))


def test_damaged_records_are_corrupt_and_damaged_files_are_not(stored, tmp_path, monkeypatch):
    monkeypatch.setattr("crate_jax.storage_errors.time.sleep", lambda seconds: None)
    folder = tmp_path / "thirty" / "1.2.3"
    shutil.copytree(stored["array_record"] / "thirty" / "1.2.3", folder)
    path = sorted(folder.glob("thirty-train*"))[1]
    content = bytearray(path.read_bytes())
    content[200] ^= 1  # within the first record, which begins at 104; what stands there changes from run to run
    path.write_bytes(content)
    source = open_source("thirty", "train", tmp_path)
    assert len([example for example in source.read(np.arange(30)) if example.error]) == 1
    path.write_bytes(content[:1000])
    tfds_records._readers.clear()
    with pytest.raises(UserError, match=rf"{path.name} cannot be read"):
        source.read(np.arange(30))


def test_a_file_that_is_missing_is_named_before_anything_is_read(stored, tmp_path):
    """A copy that was broken off: training ended when the first of its records was due."""
    folder = shutil.copytree(stored["array_record"], tmp_path / "broken") / "thirty" / "1.2.3"
    train = sorted(folder.glob("*-train.*"))
    train[1].unlink()
    with pytest.raises(UserError, match=f"1 of 3 files of data.name=thirty are not in .*: {train[1].name}; copy"):
        open_source("thirty", "train", tmp_path / "broken")
    assert open_source("thirty", "unused", tmp_path / "broken").num_examples == 30


def test_more_files_than_a_process_may_open(tmp_path):
    """Files are closed and opened again; none of their records is taken for corrupt."""
    config = tfds.download.DownloadConfig(num_shards=30)
    Builder(data_dir=str(tmp_path), file_format="array_record").download_and_prepare(download_config=config)
    info = json.loads((tmp_path / "thirty" / "1.2.3" / "dataset_info.json").read_text())
    shards = [len(split["shardLengths"]) for split in info["splits"] if split["name"] == "train"]
    code = (
        "import resource, os; used = len(os.listdir('/proc/self/fd')); "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20)); "
        "from crate_jax.data.sources import open_source; "
        f"source = open_source('thirty', 'train', {str(tmp_path)!r}); "
        "assert not any(one.error for _ in range(2) for one in source.read(range(30)))"
    )
    assert shards == [30]
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_slices_across_files(thirty):
    whole = open_source("thirty", "train", thirty).read(np.arange(30))
    part = open_source("thirty", "train[7:25]", thirty)
    assert [example.image for example in part.read(np.arange(18))] == [example.image for example in whole[7:25]]


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_a_damaged_description_is_one_sentence(stored, tmp_path, name):
    """Such as what a copy that was stopped leaves."""
    shutil.copytree(stored["array_record"], tmp_path / "tfds")
    path = tmp_path / "tfds" / "thirty" / "1.2.3" / name
    path.write_text(path.read_text()[:100])
    for data_dir in (tmp_path / "tfds", path.parent):
        with pytest.raises(UserError, match=r"data\.name=thirty in .* is damaged \(.*\); copy or prepare it again"):
            open_source("thirty", "train", data_dir)


def test_a_slice_beyond_the_end_names_the_counts(thirty):
    with pytest.raises(UserError, match=r"no split 'train\[:31\]'; it has train \(30\), unused \(30\), and slices"):
        open_source("thirty", "train[:31]", thirty)


@pytest.mark.parametrize("split", ["train[5:2]", "train[10%:5%]", "unused+train[-3:7]"])
def test_a_slice_that_ends_before_it_begins_is_refused(thirty, split):
    """TFDS takes what is left of a file."""
    with pytest.raises(UserError, match=r"the slice \[.*\] of 30 examples ends before it begins"):
        open_source("thirty", split, thirty)
    with pytest.raises(UserError, match="of 4000 examples ends before it begins"):
        open_source("embedded_digits", "train[5:2]")


def test_an_index_past_the_end_is_refused(thirty):
    source = open_source("thirty", "train", thirty)
    for index in (-1, 30):
        with pytest.raises(IndexError):
            source.read([index])


def test_the_folder_of_one_version_may_be_named(thirty):
    assert open_source("thirty", "train", thirty / "thirty" / "1.2.3").num_examples == 30


def batch_of(config):
    batches = pipeline.train_batches(config, 16, 3, None)
    batch = next(batches)
    batches.close()
    return batch


def test_staged_copies_are_read_instead(stored, tmp_path, monkeypatch):
    config = default_config()
    config.data.name, config.data.data_dir, config.batch_size = "thirty", str(tmp_path / "slow"), 30
    shutil.copytree(stored["array_record"], tmp_path / "slow")
    plain = batch_of(config)
    config.data.stage_dir = str(tmp_path / "fast")
    usage = type("Usage", (), {"free": 1000})
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"free, and .* are to be copied"):
        patch.setattr(staging.shutil, "disk_usage", lambda path: usage)
        batch_of(config)
    for _ in range(2):
        for key, value in batch_of(config).items():
            np.testing.assert_array_equal(value, plain[key])
    copies = sorted(path.name for path in (tmp_path / "fast").glob("*/*"))
    assert len(copies) == 3 and all("thirty-train" in name for name in copies)
    for path in (tmp_path / "slow").glob("*/*/thirty-train*"):
        before = path.stat()
        path.write_bytes(b"x" * before.st_size)  # not read any more
        os.utime(path, (before.st_mtime, before.st_mtime))
    np.testing.assert_array_equal(batch_of(config)["image"], plain["image"])


def test_what_changed_since_it_was_staged_is_copied_again(tmp_path):
    path = tmp_path / "slow" / "train" / "a" / "1.bmp"
    path.parent.mkdir(parents=True)
    for second, colour in enumerate(("red", "blue")):  # files of one size
        Image.new("RGB", (8, 8), colour).save(path)
        os.utime(path, (second, second))
        source = staging.staged(open_source("image_folder", "train", tmp_path / "slow"), str(tmp_path / "fast"))
        assert source.read([0])[0].image == path.read_bytes()
    with pytest.raises(UserError, match=r"data\.stage_dir=gs://bucket/x: copies are for a fast local disk"):
        staging.staged(source, "gs://bucket/x")


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
