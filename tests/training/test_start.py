"""What a run begins with, and how it is made longer: parameters of another run, more steps of a constant rate."""

import hashlib
import json

import jax
import numpy as np
import pytest

import crate_jax
from crate_jax.config import load_config, model_overrides, override
from crate_jax.data.sources import open_source
from crate_jax.errors import UserError
from crate_jax.evaluation.recipe import compose
from crate_jax.models.registry import create_model
from crate_jax.training import start
from crate_jax.training.run_folder import RunFolder
from crate_jax.training.start import starting_params

TIMES = ("images_per_second", "data_wait_fraction", "tflops_per_device")


def lines(workdir):
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in TIMES} for line in found]


@pytest.fixture(scope="module")
def constant(tiny):
    leaves = {"optimizer.schedule": "constant", "measure_every_steps": 0, "checkpoint.every_steps": 100}
    return override(tiny, leaves.items())


@pytest.fixture(scope="module")
def short(constant, tmp_path_factory):
    folder = tmp_path_factory.mktemp("short") / "run"
    crate_jax.pretrain(override(constant, [("total_steps", 3)]), folder)
    return folder


def test_a_run_begins_with_the_parameters_of_another_and_nothing_else(short, constant, tmp_path, caplog):
    caplog.set_level("INFO")
    leaves = {"total_steps": 1, "init_from": str(short), "optimizer.learning_rate": 0.0, "optimizer.warmup_steps": 0}
    config = override(constant, leaves.items())
    crate_jax.pretrain(config, tmp_path / "run")
    (_, begun), (_, given) = crate_jax.load(tmp_path / "run"), crate_jax.load(short)
    jax.tree.map(np.testing.assert_array_equal, begun, given)
    assert "another function" not in caplog.text
    assert f"init_from={short}: its parameters only" in caplog.text and lines(tmp_path / "run")[0]["step"] == 1
    crate_jax.from_pretrained(short).save(tmp_path / "saved")  # a file is as good as a run
    model = create_model(config.model.name, **crate_jax.config.model_overrides(config))
    jax.tree.map(np.testing.assert_array_equal, starting_params(tmp_path / "saved", config, model), given)


def test_another_function_of_the_same_parameters_is_said(short, constant, caplog):
    """Other heads, or another eta, leave every shape as it is: such a run began elsewhere without a word."""
    other = override(constant, {"model.num_heads": 4, "model.scan_layers": True})
    starting_params(short, other, create_model(other.model.name, **model_overrides(other)))
    assert "model.num_heads=2 there, 4 here" in caplog.text and "scan_layers" not in caplog.text


def test_hosts_compare_what_they_begin_with(short, constant, monkeypatch):
    told = []
    monkeypatch.setattr(start, "same_on_all_hosts", lambda *facts: told.append(facts))
    model = create_model(constant.model.name, **model_overrides(constant))
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(starting_params(str(short), constant, model)):
        digest.update(np.asarray(leaf).tobytes())
    ((facts, sentence),) = told
    assert facts == {"parameters": digest.hexdigest()} and "other parameters on this host" in sentence


def test_a_run_that_is_resumed_on_other_examples_says_so(short, constant, tmp_path, caplog):
    assert json.loads((short / "data.json").read_text())["examples"] == 4000
    few, more = (open_source("embedded_digits", f"train[:{count}]") for count in (50, 60))
    folder = RunFolder(tmp_path)
    folder.begin(constant, few, 0)
    folder.compare_data(few)
    folder.begin(constant, more, 5)
    assert not caplog.text
    folder.compare_data(more)
    assert "has changed since this run began (50 examples then, 60 now)" in caplog.text


def test_a_path_is_the_same_however_it_is_written(constant, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    written = [override(constant, [("init_from", path)]) for path in ("run", "./run/", str(tmp_path / "run"))]
    assert written[0] == written[1] == written[2] and written[0].init_from == str(tmp_path / "run")


def test_a_config_of_python_is_checked_as_one_of_the_command_line(constant, tmp_path):
    wrong = override(constant)
    wrong.optimizer.learning_rat = 1.0
    with pytest.raises(UserError, match=r"there is no setting optimizer\.learning_rat; did you mean"):
        crate_jax.pretrain(wrong, tmp_path / "run")


def test_what_a_run_cannot_begin_with_is_named(short, constant):
    model = create_model("crate_mae_tiny", image_size=28, patch_size=7, channels=1, width=32, num_heads=2, depth=2)
    with pytest.raises(UserError, match=r"init_from=.*does not fit crate_mae_tiny: .* has shape .*model\.\*"):
        starting_params(short, constant, model)
    with pytest.raises(UserError, match="init_from=/nowhere: there is no such"):
        starting_params("/nowhere", constant, model)
    with pytest.raises(UserError, match=r"init_from=.*x' has no effect on fine-tuning, only on pretrain"):
        compose(load_config("finetune", [("init_from", "x")]), constant, model)


def test_a_constant_rate_is_extended_to_the_very_numbers_of_a_longer_run(short, constant, tmp_path):
    longer = override(constant, [("total_steps", 5)])
    crate_jax.pretrain(longer, tmp_path / "straight")
    assert crate_jax.pretrain(longer, short).step == 5
    assert lines(short) == lines(tmp_path / "straight")
    assert json.loads((short / "config.json").read_text())["total_steps"] == 5


def test_a_cosine_cannot_be_extended_and_the_reason_is_said(tiny, tmp_path):
    config = override(tiny, [("total_steps", 3), ("measure_every_steps", 0)])
    crate_jax.pretrain(config, tmp_path / "run")
    with pytest.raises(UserError, match=r"total_steps: 3 began the run, now 9: every learning rate of a cosine"):
        crate_jax.pretrain(override(config, [("total_steps", 9)]), tmp_path / "run")
    constant = override(config, [("optimizer.schedule", "constant"), ("optimizer.final_learning_rate", 1e-5)])
    with pytest.raises(UserError, match="final_learning_rate has no effect"):
        crate_jax.pretrain(constant, tmp_path / "other")
