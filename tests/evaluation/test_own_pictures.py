"""A person's own pictures: training examples written to files are recognised, by number, class and probability."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from crate_jax.cli.main import main
from crate_jax.config import default_config, override
from crate_jax.data.own_pictures import picture_paths, read_pictures
from crate_jax.data.picture import decoded
from crate_jax.data.sources import open_source
from crate_jax.errors import UserError
from crate_jax.evaluation.feature_store import split_rows
from crate_jax.evaluation.subject import Subject, of_run
from crate_jax.training.run_folder import RunFolder, load_step

NUMBERS = (3, 120, 399)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three training examples as PNG."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, example in zip(NUMBERS, open_source("embedded_digits", "train[:400]").read(NUMBERS), strict=True):
        decoded(example.image, 1).save(folder / f"{number:03d}_is_{example.label}.png")
    return folder


def test_nearest_to_a_training_example_is_itself(workdir, folder):
    assert main(["knn", f"--workdir={workdir}", "--features=cells@encoder_00", "--k=3", f"--images={folder}"]) == 0
    images = json.loads((workdir / "knn-images.json").read_text())["images"]
    for number, path, one in zip(NUMBERS, sorted(folder.iterdir()), images, strict=True):
        first = one["neighbours"][0]
        assert one["name"] == path.name and len(one["neighbours"]) == 3
        assert first["index"] == number and first["class"] == path.stem[-1]
        assert first["cosine"] == pytest.approx(1, abs=1e-5) and one["neighbours"][1]["cosine"] < 1
        assert sum(one["votes"].values()) == pytest.approx(1) and one["votes"][one["prediction"]] > 0.3
    assert (workdir / "figures" / "knn-images.png").stat().st_size > 5000


def test_the_classifier_knows_what_it_was_fitted_on(workdir, folder):
    flags = ["--features=cells@encoder_00", f"--images={','.join(map(str, sorted(folder.iterdir())))}"]
    assert main(["probe", f"--workdir={workdir}", *flags]) == 0
    results = json.loads((workdir / "probe-images.json").read_text())
    for path, one in zip(sorted(folder.iterdir()), results["images"], strict=True):
        shares = list(one["probabilities"].values())
        assert one["prediction"] == path.stem[-1] == next(iter(one["probabilities"]))
        assert shares == sorted(shares, reverse=True) and 0.3 < sum(shares) <= 1 + 1e-6
    assert results["data"]["name"] == "images" and results["data"]["examples"] == 3 and "accuracy" not in results
    assert (workdir / "figures" / "probe-images.png").stat().st_size > 5000


def test_rows_keep_their_numbers_where_a_picture_is_corrupt(workdir, folder, tmp_path):
    for place, path in enumerate(sorted(folder.iterdir()) * 4):
        (tmp_path / "train" / path.stem[-1]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "train" / path.stem[-1] / f"{place}.png")
    shutil.copytree(tmp_path / "train", tmp_path / "validation")  # without it a tenth of the others would be one
    names = sorted((tmp_path / "train").rglob("*.png"))
    names[4].write_bytes(b"no picture")
    data = [("name", "image_folder"), ("data_dir", str(tmp_path)), ("max_corrupt_fraction", 0.5)]
    subject = of_run(workdir, [(f"data.{name}", value) for name, value in data])
    rows = split_rows(subject, "train", ("mean@encoder_00",))
    assert rows.index_N.tolist() == [0, 1, 2, 3, *range(5, 12)] and len(rows.label_N) == 11
    classes = open_source("image_folder", "train", str(tmp_path)).class_names
    assert [classes[label] for label in rows.label_N] == [names[place].parent.name for place in rows.index_N]


def named(text):
    found = picture_paths(text)
    assert all(path.endswith(name) for path, name in found)
    return [name for _, name in found]


def test_what_images_names(tmp_path):
    for name in ("a.png", "b,c.png", "d.png", "._a.png", "e.txt"):
        Image.new("L", (8, 8)).save(tmp_path / name, "PNG")
    (tmp_path / "x.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink(tmp_path / "gone", tmp_path / "link.png")
    assert named(str(tmp_path)) == ["a.png", "b,c.png", "d.png"]
    for name in ("cat", "dog/old"):  # as an image folder is
        (tmp_path / "classes" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "classes" / name / "a.png")
    assert named(f"{tmp_path}/classes") == ["cat/a.png", "dog/old/a.png"]
    assert named(str(tmp_path)) == ["a.png", "b,c.png", "classes/cat/a.png", "classes/dog/old/a.png", "d.png"]
    shutil.rmtree(tmp_path / "classes")
    assert named(f"{tmp_path}/a.png, {tmp_path}/b,c.png,{tmp_path}/e.txt,") == ["a.png", "b,c.png", "e.txt"]
    assert named(f"{tmp_path}/d.png,{tmp_path}") == ["d.png", "a.png", "b,c.png", "d.png"]
    for text, sentence in (
        (f"{tmp_path}/a.png,{tmp_path}/z.png", "there is no file .*/z.png"),
        (f"{tmp_path}/pipe.png", "there is no file"),
        (f"{tmp_path}/link.png", "there is no file"),
        (f"{tmp_path}/x.png", "holds no pictures"),
        (",", "no file named"),
    ):
        with pytest.raises(UserError, match=sentence):
            picture_paths(text)


def test_names_that_are_no_text(tmp_path):
    Image.new("L", (8, 8)).save(os.path.join(os.fsencode(tmp_path), b"na\xefve.png"))
    images, names = read_pictures(str(tmp_path), (8, 8), 1, default_config().data)
    assert names == ["na\\xefve.png"] and images.shape == (1, 8, 8, 1)


def test_a_run_with_nan_is_refused_by_name(workdir, monkeypatch):
    def broken(path, step=None):
        step, (model, params) = load_step(path, step)
        return step, (model, jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(np.nan), params))

    monkeypatch.setattr("crate_jax.evaluation.subject.load_step", broken)
    with pytest.raises(UserError, match=r"tensor \S+ holds 1 of \d+ values that are NaN or infinite"):
        of_run(workdir)


def test_results_on_another_folder_of_pictures_leave_those_of_the_run(tmp_path):
    """Same data.name and split, other pictures: probe.json was overwritten. A folder that moved is the run's own."""
    for folder, count in (("mine", 20), ("moved", 20), ("others", 24)):
        for number in range(count):
            path = tmp_path / folder / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), number).save(path)
    leaves = {"data.name": "image_folder", "data.data_dir": str(tmp_path / "mine")}
    config = override(default_config(), leaves)
    run = RunFolder(tmp_path / "run")
    run.begin(config, open_source("image_folder", "train", config.data.data_dir), 0)
    suffixes = {}
    for folder in ("mine", "moved", "others"):
        here = override(config, {"data.data_dir": f"{tmp_path}/{folder}/"})
        subject = Subject(None, None, here, run.path, str(run.path), own_data=("image_folder", "validation"))
        suffixes[folder] = subject.suffix("probe", {"name": "image_folder", "split": "validation"})
    assert suffixes == {"mine": "", "moved": "", "others": "-image_folder-others"}
