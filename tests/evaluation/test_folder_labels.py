"""Folders whose splits hold other classes, and pictures in no class: every evaluation counts the same examples."""

import json
import os
import types

import jax
import numpy as np
import pytest
from PIL import Image

from crate_jax.cli.main import main
from crate_jax.config import load_config, model_overrides
from crate_jax.distributed.mesh import make_mesh
from crate_jax.evaluation.monitor import Pictures, make_evaluator
from crate_jax.models.registry import create_model, init_params

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


@pytest.mark.parametrize("words", [["knn"], ["probe"], ["probe", "--protocol=attentive"], ["finetune"]])
def test_splits_without_a_class_in_common_are_refused(words, flags, tmp_path, capsys):
    for name in ("train/cat/images/1.png", "train/dog/images/1.png", "val/images/1.png"):  # as tiny-imagenet has them
        solid(tmp_path / name, 20)
    line, out = flags
    assert main([*words, *line, f"--config.data.data_dir={tmp_path}", f"--out={out}/none"]) == 1
    assert "the classes of validation (images) are none of those of train (cat, dog)" in capsys.readouterr().err
    assert not (out / "none").exists()


def test_features_of_two_splits_agree(flags):
    line, out = flags
    for split in ("train", "validation"):
        assert main(["features", *line, f"--split={split}", f"--out={out}/{split}.npz", "--features=mean@last"]) == 0
    labels = [np.load(out / f"{split}.npz")["labels_N"].tolist() for split in ("train", "validation")]
    assert labels == [[0] * 12 + [1] * 12 + [-1], [2] * 4 + [0] * 4 + [1] * 4 + [-1]]


def test_a_run_on_pictures_without_labels_evaluates_its_loss(tmp_path, caplog):
    """Not refused at the first evaluation, hours after its start; nor for a picture of its log."""
    for number in range(6):
        solid(tmp_path / "one" / f"{number}.png", 40 * number)
    leaves = {"data.name": "image_folder", "data.data_dir": str(tmp_path), "data.validation_split": "validation"}
    leaves |= {"model.width": 8, "model.num_heads": 2, "model.depth": 1, "model.decoder_depth": 0}
    config = load_config("quickstart_digits", leaves.items())
    model = create_model(config.model.name, **model_overrides(config))
    params = init_params(model, jax.random.key(0))
    assert list(make_evaluator(config, model)(1, params)) == ["evaluation/loss"]
    assert "no labels of two classes" in caplog.text
    pictures = Pictures(config, model, mesh=make_mesh(config.mesh), every=1)
    pictures._here = lambda params: params
    for file in (tmp_path / "one").iterdir():
        file.write_bytes(b"")
    pictures.after_step(1, types.SimpleNamespace(params=params, ema=None), None)
    assert "no picture of step 1" in caplog.text


@pytest.mark.parametrize("unlabelled", ["some", "all"])
def test_labels_that_are_missing_are_noticed_when_they_are_read(unlabelled, monkeypatch, caplog):
    """As in data sets of TFDS, where nothing but a record says that it has no label."""
    images = [np.full((28, 28, 1), 200 * (number % 2), np.uint8) for number in range(24)]
    label_N = np.where(np.arange(24) % 6 == 0, -1, np.arange(24) % 2)
    found = {"train": (images, label_N), "test": (images, label_N if unlabelled == "some" else np.full(24, -1))}
    monkeypatch.setattr("crate_jax.data.embedded.examples", lambda name, part: found[part])
    leaves = {"model.width": 8, "model.num_heads": 2, "model.depth": 1, "model.decoder_depth": 0}
    config = load_config("quickstart_digits", leaves.items())
    model = create_model(config.model.name, **model_overrides(config))
    scalars = make_evaluator(config, model)(1, init_params(model, jax.random.key(0)))
    if unlabelled == "some":
        assert scalars["evaluation/knn"] == scalars["evaluation/probe"] == 1
        assert "4 of 24 examples of train have no label" in caplog.text
    else:
        assert list(scalars) == ["evaluation/loss"]
