"""Which sub-folder is which split, how classes are numbered, and names, links and files that are not what they seem."""

import os
import socket
import threading
import unicodedata

import numpy as np
import pytest
from PIL import Image

from crate_jax.config import default_config, override
from crate_jax.data.folder_listing import entries_of, printable
from crate_jax.data.image_folder import standard_name
from crate_jax.data.sources import open_source
from crate_jax.errors import UserError


def save(folder, *names):
    for name in names:
        path = os.path.join(os.fsencode(folder), name if isinstance(name, bytes) else os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)


def found(folder, split):
    """Path below the folder to class name, of a split."""
    source = open_source("image_folder", split, folder)
    examples = source.read(np.arange(source.num_examples))
    assert all(example.error is None for example in examples)
    return {
        example.identity[len(str(folder)) + 1 :]: source.class_names[example.label] if example.label >= 0 else None
        for example in examples
    }


def test_classes_have_the_same_numbers_in_every_split(tmp_path, caplog):
    save(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/ant/1.png", "val/cat/2.png", "val/dog/2.png")
    save(tmp_path, "test/bee/1.png", "test/cat/1.png")
    train, val, test = (open_source("image_folder", split, tmp_path) for split in ("train", "val", "test"))
    assert train.class_names == ("cat", "dog") and train.num_classes == 2
    assert val.class_names == test.class_names == ("cat", "dog", "ant", "bee")
    assert val.labels.tolist() == [2, 0, 1] and test.labels.tolist() == [3, 0]
    assert open_source("image_folder", "val+train", tmp_path).labels.tolist() == [2, 0, 1, 0, 1]
    assert "val has 1 classes that the training pictures do not have (ant)" in caplog.text


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Val", "Test"),
        ("TRAINING", "VALIDATION", "TESTING"),
        ("training", "valid", "testing"),
        ("train_images", "eval", "test_images"),
        ("train2017", "val2017", "test2017"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val", "ILSVRC2012_img_test"),
        ("Training Set", "Validation Set", "Test Set"),
        ("trainset", "validate", "testset"),
        ("trainval", "dev", "test "),
        ("train", "held_out", "test"),
        ("food_train", "food_valid", "food_test"),
        ("DIV2K_train_HR", "DIV2K_val_HR", "DIV2K_test_HR"),
        ("01.Train (new)", "02.Eval (new)", "03.test (new)"),
    ],
)
def test_splits_in_any_spelling(tmp_path, train, validation, test):
    save(tmp_path, f"{train}/cat/1.png", f"{train}/dog/1.png", f"{validation}/cat/2.png", f"{test}/dog/3.png")
    assert found(tmp_path, "train") == {f"{train}/cat/1.png": "cat", f"{train}/dog/1.png": "dog"}
    for split in ("validation", "val", "Valid"):
        assert found(tmp_path, split) == {f"{validation}/cat/2.png": "cat"}
    assert found(tmp_path, "test") == {f"{test}/dog/3.png": "dog"}


def test_training_and_testing_alone(tmp_path):
    save(tmp_path, *(f"training/{name}/{number}.png" for name in ("cat", "dog") for number in range(20)))
    save(tmp_path, "testing/cat/x.png")
    train, validation = found(tmp_path, "train"), found(tmp_path, "validation")
    assert len(train) + len(validation) == 40 and 0 < len(validation) < 12
    assert all(path.startswith("training/") for path in train | validation)


@pytest.mark.parametrize("name", ["cat", "trained", "contest", "validity", "train car", "evaluate", "1", "test_tube"])
def test_other_names_are_classes(name):
    assert standard_name(name) is None


@pytest.mark.parametrize(
    "names",
    [
        ("cat/1.png", "dog/1.png", "Val/cat/1.png"),
        ("bus/1.png", "car/deep/1.png", "train/1.png", "train/x/2.png"),
        ("train/cat/1.png", "val/cat/1.png", "dog/1.png"),
        ("train/cat/1.png", "val/cat/1.png", "cat/new/1.png"),
        ("cat/1.png", "test/1.png"),
    ],
)
def test_splits_and_classes_side_by_side_are_refused(tmp_path, names):
    save(tmp_path, *names)
    for split in ("train", "validation"):
        with pytest.raises(UserError, match=r"mixes splits \(.*\) and classes"):
            open_source("image_folder", split, tmp_path)


def test_splits_one_level_down_are_refused(tmp_path):
    """FOLDER/images/train and FOLDER/images/val are no classes of one name: held-out pictures would be trained on."""
    save(tmp_path, "images/train/1.png", "images/val/2.png", "labels/train/1.png")
    for split in ("train", "validation"):
        with pytest.raises(UserError, match=r"images holds splits \(train, val\); name it as data\.data_dir"):
            found(tmp_path, split)
    assert found(tmp_path / "images", "val") == {"val/2.png": None}


def test_folders_that_are_there_twice_as_archives_unpack(tmp_path):
    top = tmp_path / "intel"
    save(
        top,
        "intel/seg_train/seg_train/sea/1.png",
        "intel/seg_train/seg_train/ice/2.png",
        "intel/seg_pred/seg_pred/3.png",
    )
    save(top, "intel/seg_test/Seg_Test/ice/4.png")
    assert found(top, "train+validation") == {
        "intel/seg_train/seg_train/ice/2.png": "ice",
        "intel/seg_train/seg_train/sea/1.png": "sea",
    }
    assert found(top, "test") == {"intel/seg_test/Seg_Test/ice/4.png": "ice"}
    save(tmp_path, "cats/cat/cats/1.png", "cats/dog/2.png")  # a class, not the folder again
    assert set(found(tmp_path / "cats", "train+validation").values()) == {"cat", "dog"}


def test_names_that_share_more_than_a_split_are_classes(tmp_path):
    save(
        tmp_path,
        *(f"{name}/{number}.png" for name in ("freight_train", "night train", "test track") for number in "12"),
    )
    assert set(found(tmp_path, "train").values()) == {"freight_train", "night train", "test track"}
    save(tmp_path, "x/seg_train/cat/1.png", "x/seg_test/cat/1.png", "x/seg_pred/1.png")
    with pytest.raises(UserError, match=r"x holds splits \(seg_test, seg_train\)"):
        found(tmp_path, "train")
    with pytest.raises(UserError, match=r"mixes splits \(seg_test, seg_train\) and classes \(seg_pred\)"):
        found(tmp_path / "x", "train")


def test_a_class_called_train_is_noticed(tmp_path, caplog):
    save(tmp_path, "bus/1.png", "car/1.png", "train/1.png", "train/2.png")
    found(tmp_path, "train")
    assert "beside it lie bus, car, which are not read" in caplog.text


def test_a_split_is_no_way_out_of_the_folder(tmp_path):
    for split in (".", "..", "..[:5]"):
        with pytest.raises(UserError, match="is not understood"):
            found(tmp_path, split)


def test_a_second_link_to_a_class_is_said(tmp_path, caplog):
    save(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/dog/1.png")
    (tmp_path / "train" / "also").symlink_to(tmp_path / "train" / "cat")
    assert open_source("image_folder", "train", tmp_path).num_examples == 2
    assert "1 of second way to a folder" in caplog.text


def test_a_held_out_folder_that_is_a_link_to_the_training_pictures(tmp_path, caplog):
    save(tmp_path, "train/cat/1.png")
    (tmp_path / "val").symlink_to("train")
    assert set(found(tmp_path, "validation").values()) == {"cat"}
    assert "train, val are one folder" in caplog.text


def test_a_split_of_ones_own_stands_beside_the_others(tmp_path, caplog):
    save(tmp_path, "train/cat/1.png", "val/cat/2.png", "extra/cat/3.png", "unlabelled/4.png")
    (tmp_path / "docs").mkdir()
    assert found(tmp_path, "unlabelled") == {"unlabelled/4.png": None} and not caplog.messages
    assert found(tmp_path, "extra") == {"extra/cat/3.png": "cat"}
    save(tmp_path, "more/4.png")
    assert found(tmp_path, "more") == {"more/4.png": None}
    with pytest.raises(UserError, match=r"classes \(more\)"):
        found(tmp_path, "train")


def test_two_spellings_of_one_split(tmp_path):
    save(tmp_path, "train2014/cat/1.png", "train2017/dog/1.png", "val2017/dog/2.png")
    with pytest.raises(UserError, match="several sub-folders for the split train: train2014, train2017"):
        found(tmp_path, "train")
    assert found(tmp_path, "train2017") == {"train2017/dog/1.png": "dog"}
    assert open_source("image_folder", "val2017", tmp_path).class_names == ("cat", "dog")
    save(tmp_path, "Val2017/dog/2.png")
    with pytest.raises(UserError, match="several"):
        found(tmp_path, "val2017")


def test_pictures_in_no_class_are_named_once(tmp_path, caplog):
    save(tmp_path, "train/stray.png", "train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/dog/1.png")
    sources = [open_source("image_folder", "train", tmp_path) for _ in range(3)]
    assert sources[0].labels.tolist() == [0, 1, -1] and sources[0].labelled.tolist() == [0, 1]
    assert len([line for line in caplog.messages if "stray.png" in line]) == 1
    assert open_source("image_folder", "val", tmp_path).labelled is None


def test_only_regular_files_are_pictures(tmp_path, caplog):
    save(tmp_path, "a.png", "b.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    os.symlink(tmp_path / "pipe.png", tmp_path / "link.png")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s.png"))
        assert len(found(tmp_path, "train+validation")) == 2
    assert "2 of named pipe" in caplog.text and "1 of socket" in caplog.text and "1 of device" in caplog.text


def test_a_file_that_became_a_pipe_is_an_error(tmp_path):
    save(tmp_path, "a.png", "b.png")
    source = open_source("image_folder", "train+validation", tmp_path)
    os.remove(tmp_path / "a.png")
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png cannot be read: .*not a regular file"):
        source.read([0, 1])


def test_links_to_nowhere(tmp_path):
    save(tmp_path, "train/cat/1.png", "train/dog/1.png")
    os.symlink(tmp_path / "gone", tmp_path / "train" / "eel")
    with pytest.raises(UserError, match=r"train/eel is a link to nowhere"):
        found(tmp_path, "train")
    os.remove(tmp_path / "train" / "eel")
    os.symlink(tmp_path / "gone", tmp_path / "val")
    with pytest.raises(UserError, match=r"val is a link to nowhere"):
        found(tmp_path, "train")


def test_a_folder_that_cannot_be_listed(tmp_path):
    save(tmp_path, "cat/1.png", "dog/1.png")
    os.chmod(tmp_path / "cat", 0)
    try:
        if not os.access(tmp_path / "cat", os.R_OK):  # root may read all the same
            with pytest.raises(UserError, match="cat cannot be listed"):
                found(tmp_path, "train")
    finally:
        os.chmod(tmp_path / "cat", 0o755)


def test_names_that_are_no_text(tmp_path):
    save(tmp_path, b"caf\xe9/na\xefve.png", "two\nlines/a\tb.png", "猫/ü.png", "folder.png/x.png", "@eaDir/thumb.jpg")
    got = found(tmp_path, "train+validation")
    assert got == {
        "caf\\xe9/na\\xefve.png": "caf\\xe9", "two\\nlines/a\\tb.png": "two\\nlines", "猫/ü.png": "猫",
        "folder.png/x.png": "folder.png",
    }  # fmt: skip
    assert printable("plain name (1).png") == "plain name (1).png"


def test_letters_of_macos_are_the_same_letters(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    save(tmp_path, f"train/{composed}/1.png", "train/tea/1.png", f"val/{decomposed}/2.png")
    assert open_source("image_folder", "val", tmp_path).labels.tolist() == [0]


def test_a_relative_data_dir_is_stored_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given, stored in (("pictures", str(tmp_path / "pictures")), ("gs://bucket/x", "gs://bucket/x"), (None, None)):
        assert override(default_config(), [("data.data_dir", given)]).data.data_dir == stored
    assert override(default_config(), [("data.data_dir", "~/x")]).data.data_dir == os.path.expanduser("~/x")


class Bucket:
    """What epath gives for an object store, with a count of requests."""

    def __init__(self, root, asked, path=""):
        self.root, self.asked, self.path, self.name = root, asked, path, path.rpartition("/")[2]

    def __str__(self):
        return f"gs://bucket{self.path}"

    def _local(self):
        return f"{self.root}{self.path}"

    def iterdir(self):
        self.asked.append(("list", self.path))
        return [Bucket(self.root, self.asked, f"{self.path}/{name}") for name in os.listdir(self._local())]

    def is_dir(self):
        self.asked.append(("is_dir", self.path))
        return os.path.isdir(self._local())

    def exists(self):
        return os.path.exists(self._local())

    def open(self, mode):
        return open(self._local(), mode)


def test_a_bucket_is_listed_once(tmp_path, monkeypatch):
    names = [f"{split}/{label}/{i}.png" for split in ("Train", "val") for label in ("cat", "dog") for i in range(9)]
    save(tmp_path, *names)
    asked = []
    monkeypatch.setattr(
        "etils.epath.Path", lambda path: Bucket(tmp_path, asked, str(path).removeprefix("gs://bucket").rstrip("/"))
    )
    sources = [open_source("image_folder", split, "gs://bucket") for split in ("train", "validation", "train")]
    assert [source.labels.tolist() for source in sources[:2]] == [[0] * 9 + [1] * 9] * 2
    (last,) = sources[0].read([17])
    assert last.identity == "gs://bucket/Train/dog/8.png" and last.error is None
    listed = [path for kind, path in asked if kind == "list"]
    assert len(listed) == len(set(listed)) == 7 and not any(path.endswith(".png") for _, path in asked)
    assert open_source("image_folder", "train", "gs://bucket/").read([17]) == [last]


def test_which_names_in_a_bucket_are_folders_is_asked_at_once(tmp_path, monkeypatch):
    """One after the other, a thousand classes take a minute."""
    save(tmp_path, "cat/1.png", "dog/1.png", "top.png")
    monkeypatch.setattr("etils.epath.Path", lambda path: Bucket(tmp_path, [], str(path).removeprefix("gs://classes")))
    both = threading.Barrier(2, timeout=10)
    monkeypatch.setattr(Bucket, "is_dir", lambda bucket: both.wait() >= 0)
    found = [(entry.name, entry.kind) for entry in entries_of("gs://classes")]
    assert found == [("cat", "folder"), ("dog", "folder"), ("top.png", "file")]
