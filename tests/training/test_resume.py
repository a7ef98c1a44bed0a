"""Exact resume: a run that was killed at an arbitrary moment ends with the very numbers of one that was not."""

import json
import os
import signal
import subprocess
import sys

import pytest

from crate_jax.cli.main import main
from tests.training.conftest import TINY

CONFIG = "from crate_jax.config import default_config\ndef get_config():\n    return default_config()\n"
TIMES = ("images_per_second", "data_wait_fraction", "tflops_per_device")


def command(folder, digits, workdir, **more):
    (folder / "tiny.py").write_text(CONFIG)
    settings = TINY | {"data.data_dir": str(digits)} | more
    words = [f"--config.{name}={value}" for name, value in settings.items()]
    return [
        sys.executable,
        "-m",
        "crate_jax",
        "pretrain",
        f"--config={folder / 'tiny.py'}",
        f"--workdir={workdir}",
        *words,
    ]


def lines(workdir):
    """Every line of the log, without what is a matter of time."""
    text = (workdir / "metrics.jsonl").read_text()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in text.splitlines()]


def start(words):
    return subprocess.Popen(words, env=os.environ | {"PYTHONUNBUFFERED": "1"}, stderr=subprocess.PIPE, text=True)


def wait_for_step(process, step):
    for line in process.stderr:
        if line.startswith(f"step {step}/"):
            return
    raise AssertionError(f"the run ended before step {step}, with exit code {process.wait()}")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, digits):
    folder = tmp_path_factory.mktemp("straight")
    assert main(command(folder, digits, folder / "run")[3:]) == 0
    return folder / "run"


@pytest.mark.parametrize(("how", "exit_code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)])
def test_goes_on_exactly_where_it_stopped(tmp_path, digits, uninterrupted, how, exit_code):
    words = command(tmp_path, digits, tmp_path / "run")
    process = start(words)
    wait_for_step(process, 6)  # the checkpoint of step 4 is written, or being written
    process.send_signal(how)
    process.stderr.read()
    assert process.wait() == exit_code
    if how == signal.SIGTERM:
        assert max(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir()) in range(6, 12)
    assert main(words[3:]) == 0
    assert lines(tmp_path / "run") == lines(uninterrupted)


def test_a_finished_run_has_nothing_left_to_do(tmp_path, digits, uninterrupted, capsys):
    words = command(tmp_path, digits, uninterrupted)[3:]
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    assert main(words) == 0
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before
    assert main([*words, "--config.seed=1"]) == 1
    assert "seed: 0 began the run, now 1" in capsys.readouterr().err
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before
