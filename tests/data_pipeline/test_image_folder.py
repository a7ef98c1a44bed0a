"""Folders of pictures: every format comes out upright and right, splits hold, and damaged files do not stop a run."""

import io
import logging
import pathlib

import numpy as np
import pytest
import skimage.data
from PIL import Image

from crate_jax.data import pipeline
from crate_jax.data.image_folder import held_out
from crate_jax.data.picture import CorruptPicture, decoded
from crate_jax.data.sources import open_source
from crate_jax.errors import UserError

ASTRONAUT = Image.fromarray(skimage.data.astronaut()).resize((60, 40))


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def close(image, picture, tolerance=12):
    """Mean difference of two pictures, in grey levels, is small."""
    got, expected = np.asarray(decoded(image, 3), float), np.asarray(picture.convert("RGB"), float)
    assert got.shape == expected.shape
    assert abs(got - expected).mean() < tolerance


def test_formats_and_modes():
    for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"):
        close(encoded(ASTRONAUT, kind), ASTRONAUT)
    close(encoded(ASTRONAUT.convert("L"), "PNG"), ASTRONAUT.convert("L"), 1)
    close(encoded(ASTRONAUT.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), ASTRONAUT)
    close(encoded(ASTRONAUT.convert("1"), "PNG"), ASTRONAUT.convert("1"), 1)
    close(encoded(ASTRONAUT.convert("CMYK"), "JPEG"), ASTRONAUT)
    close(encoded(ASTRONAUT.convert("CMYK"), "TIFF"), ASTRONAUT, 2)


def test_sixteen_bits_keep_the_upper_eight():
    grey = np.asarray(ASTRONAUT.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 256 + 77)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(np.asarray(decoded(encoded(deep, kind), 3))[..., 0], grey)


def test_damage_is_noticed():
    whole = encoded(ASTRONAUT, "JPEG")
    for damaged in (b"", b"no picture", whole[: len(whole) // 2], encoded(ASTRONAUT, "PNG")[:900]):
        with pytest.raises(CorruptPicture):
            decoded(damaged, 3)


def save(path, picture=ASTRONAUT):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def test_labels_depth_and_what_is_left_out(tmp_path, caplog):
    for name in ("cat/a.JPG", "cat/deep/er/b.png", "dog/c.webp", ".hidden/d.png", "__MACOSX/e.png", "dog/._c.png"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "dog" / "loop").symlink_to(tmp_path)
    source = open_source("image_folder", "train+validation", tmp_path)
    assert source.class_names == ("cat", "dog")
    examples = source.read(np.arange(source.num_examples))
    found = sorted((example.identity[len(str(tmp_path)) + 1 :], example.label) for example in examples)
    assert found == [("cat/a.JPG", 0), ("cat/deep/er/b.png", 0), ("dog/c.webp", 1)]
    assert "1 of .txt" in caplog.text


def paths(folder, split):
    source = open_source("image_folder", split, folder)
    return {example.identity for example in source.read(np.arange(source.num_examples))}


def test_without_sub_folders_nothing_has_a_label(tmp_path):
    for number in range(5):
        save(tmp_path / f"{number}.png")
    source = open_source("image_folder", "train", tmp_path)
    assert source.num_classes is None and source.read([0])[0].label == -1
    assert len(paths(tmp_path, "train") | paths(tmp_path, "validation")) == 5


@pytest.mark.parametrize("below", ["", "train/"])
def test_a_tenth_is_held_out_for_good(tmp_path, below):
    for number in range(60):
        save(tmp_path / below / "class" / f"{number}.png", ASTRONAUT.resize((4, 4)))
    train, validation = paths(tmp_path, "train"), paths(tmp_path, "validation")
    assert len(train | validation) == 60 and not train & validation and 1 <= len(validation) <= 15
    for number in range(60, 80):
        save(tmp_path / below / "class" / f"{number}.png", ASTRONAUT.resize((4, 4)))
    assert train <= paths(tmp_path, "train") and validation <= paths(tmp_path, "validation")


def test_about_one_in_ten():
    assert 0.08 < held_out([f"class/{number}.jpg" for number in range(5000)]).mean() < 0.12
    assert held_out(["a", "b"]).sum() == 1


def test_a_validation_folder_leaves_train_whole(tmp_path):
    for number in range(30):
        save(tmp_path / "train" / "cat" / f"{number}.png", ASTRONAUT.resize((4, 4)))
        save(tmp_path / "val" / "dog" / f"{number}.png", ASTRONAUT.resize((4, 4)))
    assert len(paths(tmp_path, "train")) == 30
    assert len(paths(tmp_path, "validation")) == len(paths(tmp_path, "val")) == 30
    assert open_source("image_folder", "validation", tmp_path).class_names == ("cat", "dog")
    assert len(paths(tmp_path, "train[:20%]+val[5:7]")) == 8
    with pytest.raises(UserError, match="no sub-folder 'other'"):
        paths(tmp_path, "other")


def test_errors_name_the_folder(tmp_path):
    with pytest.raises(UserError, match=r"data\.data_dir"):
        open_source("image_folder", "train", None)
    with pytest.raises(UserError, match="is not a folder"):
        open_source("image_folder", "train", tmp_path / "nowhere")
    with pytest.raises(UserError, match="no examples"):
        open_source("image_folder", "train", tmp_path)


def test_fingerprint_follows_names_and_sizes(tmp_path):
    for folder in ("one", "two"):
        save(tmp_path / folder / "a" / "x.png")
    one, two = (open_source("image_folder", "train", tmp_path / folder) for folder in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    with (tmp_path / "two" / "a" / "x.png").open("ab") as file:
        file.write(b"!")
    assert open_source("image_folder", "train", tmp_path / "two").fingerprint != one.fingerprint


@pytest.fixture
def damaged_folder(tmp_path, config):
    """40 pictures in 2 classes of which 4 are damaged in different ways; batches of 10 at 16 pixels."""
    for number in range(40):
        save(tmp_path / "train" / f"class{number // 20}" / f"{number:02}.jpg")
    files = sorted((tmp_path / "train").rglob("*.jpg"))
    files[3].write_bytes(b"")
    files[4].write_bytes(files[0].read_bytes()[:500])
    files[20].write_text("<html>404</html>")
    files[39].write_bytes(encoded(ASTRONAUT, "PNG")[:700])
    save(tmp_path / "validation" / "class0" / "good.png")
    config.data.name, config.data.data_dir, config.batch_size = "image_folder", str(tmp_path), 10
    return config


@pytest.mark.parametrize("workers", [0, 3])
def test_corrupt_files_are_replaced_counted_and_named(damaged_folder, caplog, workers):
    damaged_folder.data.num_workers = workers
    damaged_folder.data.max_corrupt_fraction = 0.3
    iterator = pipeline.train_batches(damaged_folder, 16, 3, None)
    with caplog.at_level(logging.WARNING):
        batches = [next(iterator) for _ in range(4)]
    iterator.close()
    assert iterator.corrupt_examples == 4
    for name in ("03.jpg", "04.jpg", "20.jpg", "39.jpg"):
        assert len([line for line in caplog.messages if "corrupt" in line and name in line]) == 1
    label = {int(i): int(x) for b in batches for i, x in zip(b["index"], b["label"], strict=True)}
    assert sorted(label) == list(range(40))
    assert [label[i] for i in (3, 4, 20, 39)] == [0, 0, 1, 0]  # of 5, 5, 21 and 0
    assert all(b["image"].reshape(10, -1).any(1).all() for b in batches)
    again = pipeline.train_batches(damaged_folder, 16, 3, None, start_step=2)
    np.testing.assert_array_equal(next(again)["image"], batches[2]["image"])
    again.close()


def test_a_corrupt_file_is_replaced_by_one_of_those_that_are_trained_on(damaged_folder):
    """Few labels: no label that was not drawn is seen, and no picture without one."""
    damaged_folder.data.max_corrupt_fraction, damaged_folder.batch_size = 0.5, 6
    drawn = np.array([0, 3, 4, 19, 20, 39])  # 3, 4, 20 and 39 are damaged
    iterator = pipeline.train_batches(damaged_folder, 16, 3, None, indices=drawn)
    batch = next(iterator)
    iterator.close()
    label = dict(zip(batch["index"].tolist(), batch["label"].tolist(), strict=True))
    assert label == {0: 0, 3: 0, 4: 0, 19: 0, 20: 0, 39: 0}  # of 0, 19, 19, 19, 0 and 0; 21 and 22 are of class 1


def test_too_many_corrupt_files_are_an_error(damaged_folder):
    damaged_folder.data.max_corrupt_fraction = 0.05
    iterator = pipeline.train_batches(damaged_folder, 16, 3, None)
    with pytest.raises(UserError, match=r"are corrupt, more than data\.max_corrupt_fraction=0\.05"):
        for _ in range(8):
            next(iterator)


def test_a_small_folder_is_judged_by_what_it_holds(damaged_folder):
    """Four of 40 are damaged: a tenth, which is allowed, however often they are met in later epochs."""
    iterator = pipeline.train_batches(damaged_folder, 16, 3, None)
    for _ in range(30):
        next(iterator)
    iterator.close()
    assert iterator.corrupt_examples == 4


def test_none_that_can_be_read_is_an_error_at_once(damaged_folder):
    train = pathlib.Path(damaged_folder.data.data_dir) / "train"
    for number in range(40):
        (train / f"class{number // 20}" / f"{number:02}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="corrupt"):
        next(pipeline.train_batches(damaged_folder, 16, 3, None))


def test_a_corrupt_picture_among_a_few_of_many_ends_nothing(damaged_folder):
    """Such as the six of a figure that is drawn while a run trains; but a few that are all corrupt do."""

    def valid(indices):
        return [
            b["valid"].tolist() for b in pipeline.evaluation_batches(damaged_folder, "train", 16, 3, 6, None, indices)
        ]

    assert valid([0, 3, 9, 19, 25, 33]) == [[True, False, True, True, True, True]]
    with pytest.raises(UserError, match="2 of 2 examples read"):
        valid([3, 4])


def test_evaluation_marks_corrupt_examples_invalid(damaged_folder):
    damaged_folder.data.max_corrupt_fraction = 0.3
    valid = np.concatenate([b["valid"] for b in pipeline.evaluation_batches(damaged_folder, "train", 16, 3, 10)])
    assert np.flatnonzero(~valid).tolist() == [3, 4, 20, 39]
