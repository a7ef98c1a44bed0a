"""Every evaluation from one workdir, by its command: files, equal numbers again, resume, mistakes in one sentence."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

import crate_jax
from crate_jax import UserError
from crate_jax.api import subject_of
from crate_jax.cli.main import main
from crate_jax.config import override
from crate_jax.data.picture import decoded
from crate_jax.evaluation import finetune
from crate_jax.evaluation.accuracy_figures import curve_figure
from crate_jax.evaluation.results import read_result
from crate_jax.evaluation.subject import of_run

SHORT = ["--config.total_steps=6", "--config.optimizer.warmup_steps=1", "--config.batch_size=16"]
SHORT += ["--config.checkpoint.every_steps=3", "--config.checkpoint.keep=5", "--config.log_every_steps=1"]


def read(path):
    return json.loads(path.read_text())


def test_probe_knn_and_features_say_the_same_when_run_again(workdir):
    probe = ["probe", f"--workdir={workdir}", "--features=cells@encoder_00", "--shots=2"]
    assert main(probe) == 0
    first = read(workdir / "probe.json")
    assert {"accuracy", "untrained_accuracy", "raw_pixel_accuracy", "features", "C"} <= set(first)
    assert first["features"] == "cells@encoder_00" and first["train_examples"] == 400 and first["test_examples"] == 100
    assert first["raw_pixel_accuracy"] > 0.4 and first["interval"][0] < first["accuracy"] < first["interval"][1]
    assert first["data"]["name"] == "embedded_digits" and first["data"]["examples"] == 100
    assert first["source"]["step"] == 4 and first["source"]["path"] == str(workdir) and first["version"]
    assert np.sum(first["confusion"]) == 100 and [row["class"] for row in first["classes"]] == list("0123456789")
    assert main(probe) == 0
    assert read(workdir / "probe.json") == first
    assert (workdir / "figures" / "probe.png").stat().st_size > 5000
    twice = []
    for out in (workdir / "some" / "x.npz", workdir / "some" / "y.npz"):
        assert main(["knn", f"--workdir={workdir}"]) == 0
        flags = ["--split=test[:30]", f"--out={out}", "--features=cls@last"]
        assert main(["features", f"--workdir={workdir}", *flags]) == 0
        with np.load(out) as found:
            assert found["features_NxG"].shape == (30, 16) and found["features_NxG"].dtype == np.float32
            assert found["labels_N"].shape == (30,)
            twice.append((read(workdir / "knn.json"), found["features_NxG"].tobytes(), found["labels_N"].tobytes()))
    assert twice[0] == twice[1]
    assert 0.2 < twice[0][0]["accuracy"] <= 1 and twice[0][0]["k"] == 20
    assert read(workdir / "some" / "x.npz.json")["features"] == "cls@last"
    for figure in (workdir / "figures" / "knn.png", workdir / "some" / "x.npz.png"):
        assert figure.stat().st_size > 5000


def test_other_data_have_other_names_and_the_best_layer_is_remembered(workdir, capsys):
    other = ["--config.data.validation_split=test[100:160]", "--shots=1", "--baselines=none"]
    assert main(["probe", f"--workdir={workdir}", "--shots=1"]) == 0
    own = read(workdir / "probe.json")
    assert main(["probe", f"--workdir={workdir}", "--features=cls@last", *other]) == 0
    assert read(workdir / "probe.json") == own
    found = read(workdir / "probe-embedded_digits-test_100_160.json")
    assert found["data"]["examples"] == 60 and found["data"]["fingerprint"] != own["data"]["fingerprint"]
    assert "untrained_accuracy" not in found and "raw_pixel_accuracy" not in found
    assert main(["knn", f"--workdir={workdir}"]) == 0
    assert f"by {own['features']} (chosen by probe.json), k = 20" in capsys.readouterr().out
    near = read(workdir / "knn.json")
    assert (near["features"], near["features_from"]) == (own["features"], "probe.json")
    assert crate_jax.knn(workdir).features_from == "probe.json"  # a function of what is saved, in Python too
    assert main(["features", f"--workdir={workdir}", "--split=test[:9]", f"--out={workdir}/best.npz"]) == 0
    assert read(workdir / "best.npz.json")["features"] == own["features"]
    assert read(workdir / "best.npz.json")["features_from"] == "probe.json"
    assert read(workdir / "best.npz.json")["data"]["examples"] == 9


def test_results_that_are_damaged_or_old_are_left_out(workdir, tmp_path, caplog):
    for name, text in (("probe", '{"accuracy": 0.'), ("probe_x", '{"source": "x", "chosen": true}'), ("probe_y", "[]")):
        (tmp_path / f"{name}.json").write_text(text)
    subject = dataclasses.replace(of_run(workdir), out=epath.Path(tmp_path))
    assert subject.suffix("probe", {"name": "x", "split": "y"}) == "-x"
    assert read_result(tmp_path / "probe.json") is None and "probe.json is damaged" in caplog.text
    # what `probe` chose is found in the run's own folder too, and on these data before others
    source = {"chosen": True, "source": {"parameters": subject.identity}}
    shutil.copytree(workdir, run := tmp_path / "run", ignore=lambda *_: ["probe.json"])
    subject = dataclasses.replace(subject, source=str(run))
    for name, features, data in (
        ("probe-cifar10", "mean@encoder_00", {"name": "cifar10"}),
        ("probe-x", "cells@encoder_00", {"name": "embedded_digits", "split": "x"}),
        ("probe-y", "cls@encoder_00", {"name": "embedded_digits", "split": "test[:100]"}),
    ):
        (run / f"{name}.json").write_text(json.dumps(source | {"features": features, "data": data}))
    assert subject.features_or(None, None, "") == ("cls@encoder_00", "probe-y.json")
    (run / "probe-y.json").unlink()
    assert subject.features_or(None, None, "") == ("cells@encoder_00", "probe-x.json")
    (run / "probe-x.json").unlink()
    assert subject.features_or(None, None, "") == ("mean@encoder_00", "probe-cifar10.json")
    (run / "probe-cifar10.json").unlink()
    assert subject.features_or(None, lambda: "cls@last", "default") == ("cls@last", "default")
    assert subject.features_or("mean@last", None, "") == ("mean@last", "given")


def test_a_log_that_was_deleted_costs_the_curve_alone(tmp_path):
    figure = curve_figure(tmp_path / "metrics.jsonl", {"accuracy": 0.5, "from": "scratch", "train_examples": 3})
    assert "50.0 %" in figure.axes[1].get_legend().get_texts()[1].get_text()


def test_reconstruct_writes_numbers_and_figures(workdir):
    assert main(["reconstruct", f"--workdir={workdir}", "--limit=20"]) == 0
    results = read(workdir / "reconstruction.json")
    assert main(["reconstruct", f"--workdir={workdir}", "--limit=20"]) == 0
    assert read(workdir / "reconstruction.json") == results
    assert results["images"] == 20 and results["mask_ratio"] == 0.75
    assert results["masked_mse"] > 0 and 0 < results["psnr"] < 40 and -1 < results["ssim"] < 1
    assert results["masked_psnr"] < results["psnr"] and results["masked_ssim"] < results["ssim"]
    assert {one["mask_kind"] for one in results["by_mask"]} == {"random", "block", "grid"}
    for name in ("reconstruction.png", "reconstruction_by_mask.png"):
        assert (workdir / "figures" / name).stat().st_size > 5000


def test_few_labels_compare_on_the_same_examples(workdir, capsys):
    assert main(["finetune", f"--workdir={workdir}", "--labels_per_class=2", "--draws=2", *SHORT]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(workdir / "few_labels.json")
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
    assert (workdir / "figures" / "few_labels.png").stat().st_size > 5000
    assert results["data"]["name"] == "embedded_digits" and list(results["by_labels"]) == ["2"]


def test_few_labels_on_other_data_are_kept_together(workdir, tmp_path, monkeypatch):
    subject = dataclasses.replace(crate_jax.from_pretrained(workdir).subject, out=epath.Path(tmp_path))
    config = override(subject.config, [("data.validation_split", "test[100:160]")])
    monkeypatch.setattr(finetune, "fine_tune", lambda *_, **__: (config, {"accuracy": 0.5, "test_examples": 60}))
    monkeypatch.setattr(finetune, "raw_pixels", lambda *_: 0.25)
    for number in (2, 5):
        file = subject.save(finetune.finetune(subject, config, tmp_path, labels_per_class=number, draws=1))
    assert file.name == "few_labels-embedded_digits-test_100_160.json" and list(read(file)["by_labels"]) == ["2", "5"]


def test_a_training_from_scratch_is_no_result_of_the_pre_trained_network(workdir, tmp_path, capsys):
    """And its folder is refused by the flag that names it: --workdir is that of the pre-training."""
    words = ["finetune", f"--workdir={workdir}", *SHORT, f"--out={tmp_path}/scratch"]
    before = (workdir / "finetune.json").read_bytes() if (workdir / "finetune.json").exists() else None
    assert main([*words, "--from_scratch"]) == 0
    assert read(tmp_path / "scratch" / "finetune.json")["from"] == "scratch"
    assert before == ((workdir / "finetune.json").read_bytes() if (workdir / "finetune.json").exists() else None)
    capsys.readouterr()
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "Take another --out, or the same settings" in said and "--workdir" not in said
    assert main([*words, "--from_scratch", "--config.total_steps=50"]) == 1
    said = capsys.readouterr().err
    assert "by fine-tuning it in a new --out" in said and "init_from" not in said


def test_a_data_set_may_be_said_by_any_form_of_a_config(workdir):
    for data in (workdir / "config.json", "finetune:medium", "finetune_medium", "quickstart_digits"):
        assert subject_of(str(workdir), data).config.data.name in ("embedded_digits", "imagenet2012")
    with pytest.raises(UserError, match=r"imagenet_v3:1\.0\.0 is neither"):
        subject_of(str(workdir), "imagenet_v3:1.0.0")


def test_maes_probe_leaves_the_encoder_alone(workdir):
    out = workdir / "probe_mae"
    flags = ["--config=probe_mae", f"--out={out}", *SHORT, "--config.optimizer.name=adamw"]
    flags += ["--config.optimizer.weight_decay=0.1", "--config.optimizer.accumulate=2"]
    flags += ["--config.optimizer.learning_rate=0.05", "--config.total_steps=20", "--config.batch_size=64"]
    assert main(["finetune", f"--workdir={workdir}", *flags, "--config.checkpoint.every_steps=10"]) == 0
    (_, before), (_, after) = crate_jax.load(str(workdir)), crate_jax.load(str(out))
    shared = {name for name in after if not name.startswith("head_")}
    assert {"class_token", "embedding_kernel", "encoder_norm"} < shared
    for name in shared:  # weight decay shrinks nothing that is frozen
        jax.tree.map(np.testing.assert_array_equal, before[name], after[name])
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.1
    whole = read(out / "finetune.json")
    assert whole["accuracy"] > 0.15
    # what is saved takes features as they are: it classifies as the numbers say
    net = crate_jax.from_pretrained(str(out))
    source = net.subject.open_split("test[:100]")
    images, labels = zip(*[(one.image, one.label) for one in source.read(np.arange(100))], strict=True)
    logits = net.model.apply({"params": net.params}, net.preprocess([decoded(one, 1) for one in images])).logits_BxC
    assert np.mean(np.argmax(logits, -1) == np.array(labels)) == pytest.approx(whole["accuracy"], abs=0.011)
    shutil.rmtree(out / "checkpoints" / "20")  # as if it had been killed after the checkpoint of step 10
    assert main(["finetune", f"--workdir={workdir}", *flags, "--config.checkpoint.every_steps=10"]) == 0
    assert [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()] == losses
    assert read(out / "finetune.json") == whole
    few = [f"--out={workdir}/few", "--labels_per_class=5", "--draws=1", "--config.total_steps=3"]
    assert main(["finetune", f"--workdir={workdir}", *flags, *few]) == 0
    results = read(workdir / "few_labels.json")
    assert results["head_only"] and "by_draw" in results and "5" in results["by_labels"]  # other K are kept
    assert main(["finetune", f"--workdir={workdir}", *flags, "--from_scratch", f"--out={workdir}/x"]) == 1


@pytest.fixture(scope="module")
def mistaken(workdir):
    """The run, and files beside it that are not what their names say."""
    for name in ("config.png", "config.pth"):
        shutil.copy(workdir / "config.json", workdir / name)
    for number, folder in enumerate(("flat/train", "flat/validation", "one/train/cat", "one/validation/cat")):
        (workdir / folder).mkdir(parents=True)
        for place in range(3):
            pixels = np.random.default_rng((number, place)).integers(0, 256, (28, 28), np.uint8)
            Image.fromarray(pixels).save(workdir / folder / f"{place}.png")
    return workdir


FOLDER = ["--config.data.name=image_folder", "--config.data.data_dir={}/flat"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["probe", "--workdir=/nowhere"], "holds no run"),
        (["probe"], "give either --workdir"),
        (["knn", "--checkpoint=x.pth"], "also needs --config and --out"),
        (["knn", "--workdir={}", "--k=5000"], "training examples; choose at least 1"),
        (["features", "--workdir={}", "--split=nope", "--out=x.npz"], "no split 'nope'"),
        (["probe", "--workdir={}", "--features=cells@encoder_07"], "layers encoder_00 to encoder_01"),
        (["probe", "--workdir={}", "--features=raw pixels"], "write POOLING@LAYER"),
        (["knn", "--workdir={}", "--features=raw pixels"], "write POOLING@LAYER"),
        (["features", "--workdir={}", "--features=raw pixels", "--split=test", "--out={}/x.npz"], "POOLING@LAYER"),
        (["probe", "--workdir={}", "--config.model.width=64"], "do not fit"),
        (["probe", "--workdir={}", "--config.data.train_split=train[:5]"], "class"),
        (["reconstruct", "--workdir={}", "--images=/no/such.jpg"], "no file /no/such.jpg"),
        (["probe", "--workdir={}", "--images=/no/such.jpg"], "no file /no/such.jpg"),
        (["knn", "--workdir={}", "--images={}/config.png"], "cannot be read as a picture"),
        (["probe", "--workdir={}", "--features=cls@encoder_00", "--shots=500"], "the smallest class has 40"),
        (["probe", "--workdir={}", "--config.data.validation_split=nope"], "no split 'nope'"),
        (["probe", "--checkpoint={}/config.pth", "--config=finetune", "--out={}"], "is no PyTorch file"),
        (["knn", "--checkpoint={}", "--config=finetune", "--out={}"], "is a run: name that folder"),
        (["probe", "--workdir={}", *FOLDER], "no labels"),
        (["knn", "--workdir={}", "--features=cls@encoder_00", *FOLDER], "no labels"),
        (["finetune", "--workdir={}", *FOLDER], "no labels"),
        (
            ["knn", "--workdir={}", "--features=cls@encoder_00", FOLDER[0], "--config.data.data_dir={}/one"],
            "have 1 class",
        ),
        (["finetune", "--workdir={}", FOLDER[0], "--config.data.data_dir={}/one"], "one class only"),
        (["finetune", "--workdir={}", "--labels_per_class=500"], "has only"),
        (["finetune", "--workdir={}", "--labels_per_class=2", "--from_scratch"], "does not go with"),
        (["finetune", "--workdir={}", "--draws=2"], "give --labels_per_class=K as well"),
        (["segment", "--workdir={}", "--limit=5000"], "from 4 to 1000"),
        (["reconstruct", "--workdir={}", "--config.norm_pix_loss=True"], "was trained with False; leave it out"),
    ],
)
def test_mistakes_are_one_sentence(workdir, mistaken, capsys, line, sentence):
    splits = ["--config.data.train_split=train", "--config.data.validation_split=validation"]
    assert main([word.format(mistaken) for word in line] + (splits if FOLDER[0] in line else [])) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("crate-jax: ") and sentence in error
