"""The embedded data sets: counts, no shared pixels, and neither TensorFlow nor TFDS to read them."""

import re
import subprocess
import sys
import types

import numpy as np
import pytest

from crate_jax.data import sources
from crate_jax.data.embedded.digits import digits, train_mask
from crate_jax.data.embedded.photographs import CROPS, PHOTOGRAPHS, crop, crop_boxes, photograph
from crate_jax.data.picture import decoded
from crate_jax.data.sources import open_source
from crate_jax.errors import UserError


def painted(label, split):
    """True where a pixel of the photograph lies in some crop of the split."""
    height, width = photograph(label).shape[:2]
    mask = np.zeros((height, width), bool)
    for top, left, side in crop_boxes(label, split, height, width):
        assert 0 <= top <= height - side and 0 <= left <= width - side and side >= 64
        mask[top : top + side, left : left + side] = True
    return mask


def test_no_pixel_is_in_a_training_and_in_a_test_crop():
    for label in PHOTOGRAPHS:
        train, test = painted(label, "train"), painted(label, "test")
        assert train.any() and test.any() and not (train & test).any()


def test_photographs_as_stored():
    for split, count in (("train", 680), ("test", 1020), ("whole", 17)):
        source = open_source("embedded_photographs", split)
        assert (source.num_examples, source.num_classes) == (count, 17)
    test = open_source("embedded_photographs", "test")
    examples = test.read(np.arange(17 * 3))
    assert [example.label for example in examples] == list(range(17)) * 3
    for turn, example in enumerate(examples):
        label = test.class_names[example.label]
        boxes = crop_boxes(label, "test", *photograph(label).shape[:2])
        expected = crop(photograph(label), boxes[turn // 17])
        assert np.array_equal(np.asarray(decoded(example.image, 3)), expected)
    labels = [example.label for example in test.read(np.arange(1020))]
    assert np.bincount(labels).tolist() == [CROPS["test"]] * 17


def test_digits_are_split_by_class():
    images, labels = digits()
    chosen = train_mask(labels)
    assert np.bincount(labels[chosen]).tolist() == [400] * 10
    source = open_source("embedded_digits", "test")
    examples = source.read(np.arange(1000))
    assert np.bincount([example.label for example in examples]).tolist() == [100] * 10
    held_out = {image.tobytes() for image in images[~chosen]}
    assert {np.asarray(decoded(example.image, 1)).tobytes() for example in examples} == held_out


def test_fingerprints_are_those_of_the_first_version():
    """Results of version 0.1, which read the same examples from disk, stay comparable."""
    assert open_source("embedded_photographs", "train[10:50%]+test").fingerprint == "96f5b0cf6c56c561"
    assert open_source("embedded_digits", "train[10:50%]+test").fingerprint == "1b458caf95dcf599"


def test_a_tfds_that_cannot_be_imported_is_one_sentence(monkeypatch, tmp_path):
    """What is left of a first import that failed has no `core`."""
    monkeypatch.delitem(sys.modules, "tensorflow_datasets.core", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", types.ModuleType("tensorflow_datasets"))
    with pytest.raises(UserError, match=r"TensorFlow Datasets cannot be imported.*protobuf>=6.31.1"):
        open_source("cifar10", "train", tmp_path)
    with pytest.raises(UserError, match=rf"^{tmp_path} is a folder; for its pictures set data.name=image_folder and "):
        open_source(str(tmp_path), "train")
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)  # as a data set or as a folder of pictures: what each needs
    with pytest.raises(UserError, match=r"cannot be imported.*mnist is a folder; for its pictures set data.name=image"):
        open_source("mnist", "train")


def test_a_folder_that_is_called_as_a_data_set_is_not_taken_for_it(has_tfds, monkeypatch, tmp_path):
    if not has_tfds:
        pytest.skip("TensorFlow Datasets cannot be imported")
    for name in ("mnist", "mine"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data.name=mnist is not prepared in .*build mnist .*mnist is a folder; for"):
        open_source("mnist", "train", tmp_path)
    with pytest.raises(UserError, match=r"^mine is a folder; for its pictures set data.name=image_folder and "):
        open_source("mine", "train", tmp_path)


@pytest.mark.parametrize("name", ["embedded_photographs", "embedded_digits"])
def test_reading_imports_neither_tensorflow_nor_tfds(name):
    code = (
        "import sys; from crate_jax.data.sources import open_source; "
        f"open_source({name!r}, 'train').read([3]); "
        "sys.exit(any(module in sys.modules for module in ('tensorflow', 'tensorflow_datasets', 'google.protobuf')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("embedded_digits", "validation", "has no split 'validation'; it has train, test"),
        ("cifar10", "train", "run tfds build cifar10 --data_dir=.* --file_format=array_record"),
        ("imagenet2012", "train", "ILSVRC2012_img_train.tar"),
        ("cifra10", "train", "did you mean cifar10"),
        ("embedded_digits", "train[:0]", "has no examples"),
    ],
)
def test_missing_data_gets_a_sentence(tmp_path, name, split, message, has_tfds):
    if not has_tfds and not name.startswith("embedded_"):
        pytest.skip("TFDS, which knows this name, cannot be imported")
    with pytest.raises(UserError, match=message):
        open_source(name, split, tmp_path)


def test_slices():
    whole = open_source("embedded_digits", "train")
    part = open_source("embedded_digits", "train[50%:]+test[:10]")
    assert part.num_examples == 2010
    assert part.read([0])[0].image is whole.read([2000])[0].image
    assert part.read([2009])[0].image is open_source("embedded_digits", "test").read([9])[0].image
    assert part.fingerprint != whole.fingerprint
    assert whole.fingerprint == open_source("embedded_digits", "train").fingerprint


@pytest.mark.parametrize(
    ("train", "held_out", "shared"),
    [
        ("train", "train[90%:]", 400),
        ("train[:100]+train[200:300]", "test+train[50:250]", 100),
        ("Training", "train[:7]", 7),
        ("train[:90%]", "train[90%:]", 0),
        ("train", "test", 0),
    ],
)
def test_held_out_examples_that_are_trained_on_are_counted(train, held_out, shared, caplog, monkeypatch):
    monkeypatch.setattr(
        sources, "open_source", lambda name, split, _: open_source(name, re.split(r"[+[]", split.lower())[0][:5])
    )
    settings = types.SimpleNamespace(
        name="embedded_digits", data_dir=None, train_split=train, validation_split=held_out
    )
    sources.open_held_out(settings)
    assert (f"share {shared} examples: what is measured on them is not held out" in caplog.text) == bool(shared)
