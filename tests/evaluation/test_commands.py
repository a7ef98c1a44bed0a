"""Every evaluation from one workdir, by its command: files, equal numbers again, resume, mistakes in one sentence."""

import json
import shutil

import numpy as np
import pytest

import crate_jax
from crate_jax.cli.main import main

CONFIG = """
from crate_jax.config import load_config
def get_config():
    config = load_config("quickstart_digits")
    config.total_steps, config.optimizer.warmup_steps, config.batch_size = 4, 1, 16
    config.model.width, config.model.num_heads, config.model.depth, config.model.decoder_depth = 16, 2, 2, 1
    config.measure_every_steps = 0
    config.data.train_split, config.data.validation_split = "train[:400]", "test[:100]"
    return config
"""
SHORT = ["--config.total_steps=6", "--config.optimizer.warmup_steps=1", "--config.batch_size=16"]
SHORT += ["--config.checkpoint.every_steps=3", "--config.checkpoint.keep=5", "--config.log_every_steps=1"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.py").write_text(CONFIG)
    assert main(["pretrain", f"--config={folder}/tiny.py", f"--workdir={folder}/run"]) == 0
    return folder / "run"


def read(path):
    return json.loads(path.read_text())


def test_probe_knn_and_features_say_the_same_when_run_again(workdir):
    assert main(["probe", f"--workdir={workdir}", "--features=cells@1"]) == 0
    first = read(workdir / "probe.json")
    assert {"accuracy", "untrained_accuracy", "raw_pixel_accuracy", "features", "C"} <= set(first)
    assert first["features"] == "cells@1" and first["train_examples"] == 400 and first["test_examples"] == 100
    assert first["raw_pixel_accuracy"] > 0.4
    assert main(["probe", f"--workdir={workdir}", "--features=cells@1"]) == 0
    assert read(workdir / "probe.json") == first
    assert main(["knn", f"--workdir={workdir}"]) == 0
    assert 0.2 < read(workdir / "knn.json")["accuracy"] <= 1 and read(workdir / "knn.json")["k"] == 20
    out = workdir / "some" / "x.npz"
    assert main(["features", f"--workdir={workdir}", "--split=test[:30]", f"--out={out}", "--features=cls@last"]) == 0
    with np.load(out) as found:
        assert found["features_NxG"].shape == (30, 16) and found["features_NxG"].dtype == np.float32
        assert found["labels_N"].shape == (30,)


def test_reconstruct_writes_numbers_and_figures(workdir):
    assert main(["reconstruct", f"--workdir={workdir}", "--limit=20"]) == 0
    results = read(workdir / "reconstruction.json")
    assert results["images"] == 20 and results["mask_ratio"] == 0.75
    assert results["masked_mse"] > 0 and 0 < results["psnr"] < 40 and -1 < results["ssim"] < 1
    assert {one["mask_kind"] for one in results["by_mask"]} == {"random", "block", "grid"}
    for name in ("reconstruction.png", "reconstruction_by_mask.png"):
        assert (workdir / "figures" / name).stat().st_size > 5000


def test_fine_tuning_goes_on_to_the_same_losses(workdir):
    flags = [*SHORT, "--config.data.mixup=0.8", "--config.data.cutmix=1.0", "--config.optimizer.layer_decay=0.65"]
    flags += ["--config.model.drop_path=0.2", "--config.data.label_smoothing=0.1"]
    assert main(["finetune", f"--workdir={workdir}", *flags]) == 0
    folder = workdir / "finetune" / "finetune"
    whole, accuracy = (folder / "metrics.jsonl").read_text(), read(workdir / "finetune.json")["accuracy"]
    losses = [json.loads(line)["loss"] for line in whole.splitlines()]
    assert len(losses) == 6
    shutil.rmtree(folder / "checkpoints" / "6")  # as if it had been killed after the checkpoint of step 3
    (workdir / "finetune.json").unlink()
    assert main(["finetune", f"--workdir={workdir}", *flags]) == 0
    again = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert again == losses and read(workdir / "finetune.json")["accuracy"] == accuracy


def test_few_labels_compare_on_the_same_examples(workdir):
    assert main(["finetune", f"--workdir={workdir}", "--labels_per_class=2", "--draws=2", *SHORT]) == 0
    results = read(workdir / "few_labels.json")
    assert results["labels_per_class"] == 2 and results["draws"] == 2
    for kind in ("pretrained", "from_scratch", "raw_pixels"):
        assert results[kind] == pytest.approx(np.mean(results["by_draw"][kind])) and 0 <= results[kind] <= 1
    starts = [
        json.loads((workdir / "finetune/finetune/labels_2" / f"draw_{draw}" / kind / "metrics.jsonl").open().readline())
        for draw in range(2)
        for kind in ("pretrained", "from_scratch")
    ]
    assert len({line["grad_norm"] for line in starts}) == 4  # other examples, other parameters


def test_maes_probe_leaves_the_encoder_alone(workdir):
    out = workdir / "probe_mae"
    flags = ["--config=probe_mae", f"--out={out}", *SHORT, "--config.optimizer.name=sgd"]
    flags += ["--config.optimizer.learning_rate=0.05", "--config.total_steps=20", "--config.batch_size=64"]
    assert main(["finetune", f"--workdir={workdir}", *flags]) == 0
    (_, before), (_, after) = crate_jax.load(str(workdir)), crate_jax.load(str(out))
    for name in ("dictionary",):
        for layer in ("encoder_00", "encoder_01"):
            same = [tree[layer]["sparsification"][name] for tree in (before, after)]
            np.testing.assert_array_equal(*same)
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.1
    assert read(out / "finetune.json")["accuracy"] > 0.15
    assert main(["finetune", f"--workdir={workdir}", *flags, "--from_scratch", f"--out={workdir}/x"]) == 1


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["probe", "--workdir=/nowhere"], "holds no run"),
        (["probe"], "give either --workdir"),
        (["knn", "--checkpoint=x.pth"], "also needs --config and --out"),
        (["knn", "--workdir={}", "--k=5000"], "only 320 training examples"),
        (["features", "--workdir={}", "--split=nope", "--out=x.npz"], "no split 'nope'"),
        (["probe", "--workdir={}", "--features=cells@7"], "layers 1 to 2"),
        (["probe", "--workdir={}", "--config.model.width=64"], "do not fit"),
        (["probe", "--workdir={}", "--config.data.train_split=train[:5]"], "class"),
        (["reconstruct", "--workdir={}", "--images=/no/such.jpg"], "no file /no/such.jpg"),
        (["finetune", "--workdir={}", "--labels_per_class=500"], "has only"),
    ],
)
def test_mistakes_are_one_sentence(workdir, capsys, line, sentence):
    assert main([word.format(workdir) for word in line]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("crate-jax: ") and sentence in error
