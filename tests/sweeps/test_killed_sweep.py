"""A sweep killed with -9 in the middle of its second point, started again, ends with the table of one that was not."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest

from crate_jax.cli.main import main
from crate_jax.sweeps.run import Runner
from tests.compiling import with_devices

SWEEP = """
from crate_jax.config import load_config
from crate_jax.sweeps.points import leaf, product
EVALUATE = ("knn --features=mean@encoder_00",)
def get_config():
    config = load_config("quickstart_digits")
    config.total_steps, config.optimizer.warmup_steps, config.batch_size = 40, 4, 8
    config.log_every_steps, config.checkpoint.every_steps, config.measure_every_steps = 1, 5, 0
    config.model.width, config.model.num_heads, config.model.depth, config.model.decoder_depth = 16, 2, 1, 1
    config.data.train_split, config.data.validation_split = "train[:200]", "test[:100]"
    return config
def get_hyper():
    return product(leaf("model.lambda_", [0.1, 0.5]))
"""


def table(workdir):
    """The rows of its comparison, without what is a matter of time."""
    assert main(["compare", str(workdir), f"--out={workdir}/table"]) == 0
    with open(workdir / "table" / "comparison.csv") as stream:
        return [{k: v for k, v in row.items() if "images_per_second" not in k} for row in csv.DictReader(stream)]


def steps(workdir, point):
    log = workdir / point / "metrics.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def here(monkeypatch):
    """Commands of a sweep run in this process: seconds instead of a start for each."""
    monkeypatch.setattr(Runner, "_child", lambda self, arguments, log, environment, cores: main(arguments))


def test_a_killed_sweep_ends_with_the_same_table(tmp_path, here):
    (tmp_path / "question.py").write_text(SWEEP)
    words = ["sweep", f"--config={tmp_path}/question.py"]
    assert main([*words, f"--workdir={tmp_path}/whole"]) == 0
    shutil.copytree(tmp_path / "whole" / "lambda=0.1", tmp_path / "killed" / "lambda=0.1")  # its first point is done
    # as many devices as here: other sums would have other last bits
    environment = os.environ | {"XLA_FLAGS": with_devices(jax.device_count())}
    command = [sys.executable, "-m", "crate_jax", *words, f"--workdir={tmp_path}/killed"]
    process = subprocess.Popen(command, env=environment)
    while steps(tmp_path / "killed", "lambda=0.5") < 12:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    time.sleep(0.3)
    left = steps(tmp_path / "killed", "lambda=0.5")
    time.sleep(1)
    assert steps(tmp_path / "killed", "lambda=0.5") == left < 40  # the point does not outlive its sweep
    listed = json.loads((tmp_path / "killed" / "sweep.json").read_text())["points"]
    assert [point["status"] for point in listed] == ["done", "running"]

    first = (tmp_path / "killed" / "lambda=0.1" / "metrics.jsonl").stat().st_mtime_ns
    assert main([*words, f"--workdir={tmp_path}/killed"]) == 0
    assert (tmp_path / "killed" / "lambda=0.1" / "metrics.jsonl").stat().st_mtime_ns == first  # not run again
    whole, killed = table(tmp_path / "whole"), table(tmp_path / "killed")
    assert killed == whole and len(whole) == 2
    assert all(float(row["knn"]) > 0.1 and float(row["loss"]) > 0 for row in whole)
