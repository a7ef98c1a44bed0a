"""Folders whose splits hold other classes, and pictures in no class: every evaluation counts the same examples."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from crate_jax.cli.main import main

SHORT = ["--config.total_steps=40", "--config.optimizer.warmup_steps=1", "--config.batch_size=8"]


def solid(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (28, 28), level).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """12 dark cats, 12 bright dogs, 4 of each and 4 grey ants to be tested on, and a stray picture on either side."""
    folder = tmp_path_factory.mktemp("animals")
    for number in range(12):
        solid(folder / "train" / "cat" / f"{number}.png", 20 + number)
        solid(folder / "train" / "dog" / f"{number}.png", 230 + number)
    for number in range(4):
        for name, level in (("ant", 26), ("cat", 24), ("dog", 234)):
            solid(folder / "val" / name / f"{number}.png", level + 2 * number)
    for split in ("train", "val"):
        solid(folder / split / "stray.png", 234)
    return folder


@pytest.fixture(scope="module")
def flags(workdir, folder, tmp_path_factory):
    split = "--config.data.validation_split=validation"
    return [f"--workdir={workdir}", "--config.data.name=image_folder", f"--config.data.data_dir={folder}",
            "--config.data.train_split=train", split], tmp_path_factory.mktemp("out")  # fmt: skip


def only(out, pattern):
    (path,) = out.glob(pattern)
    return json.loads(path.read_text())


def test_neighbours(flags, folder, monkeypatch):
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path=".": listed.append(str(path)) or scandir(path))
    line, out = flags
    assert main(["knn", *line, f"--out={out}", "--features=mean@last", "--k=3"]) == 0
    results = only(out, "knn*.json")
    assert results["accuracy"] == pytest.approx(8 / 12)
    assert (results["train_examples"], results["test_examples"]) == (24, 12)
    of_the_data = [path for path in listed if path.startswith(f"{folder}/")]
    assert sorted(of_the_data) == sorted(set(of_the_data))  # each folder of pictures is listed once
    assert len(of_the_data) == 7


def test_probe(flags):
    line, out = flags
    assert main(["probe", *line, f"--out={out}", "--features=mean@last"]) == 0
    results = only(out, "probe*.json")
    assert results["accuracy"] == results["raw_pixel_accuracy"] == pytest.approx(8 / 12)
    assert (results["train_examples"], results["test_examples"]) == (24, 12)


def test_fine_tuning(flags):
    line, out = flags
    rate = "--config.optimizer.learning_rate=3e-3"
    assert main(["finetune", *line, f"--out={out}/ft", *SHORT, rate]) == 0
    results = only(out / "ft", "finetune*.json")
    assert results["accuracy"] == pytest.approx(8 / 12)
    assert (results["train_examples"], results["test_examples"]) == (24, 12)


def test_features_of_two_splits_agree(flags):
    line, out = flags
    for split in ("train", "validation"):
        assert main(["features", *line, f"--split={split}", f"--out={out}/{split}.npz", "--features=mean@last"]) == 0
    labels = [np.load(out / f"{split}.npz")["labels_N"].tolist() for split in ("train", "validation")]
    assert labels == [[0] * 12 + [1] * 12 + [-1], [2] * 4 + [0] * 4 + [1] * 4 + [-1]]
