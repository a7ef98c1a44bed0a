"""Several processes on the loopback device: they stop together, notice a lost one, and any number of them goes on.

One run in four lives: two processes, one told to stop; two with other meshes, one killed with -9; two again, with the
newest checkpoint cut in half; one alone. It ends with the losses of a run that was never disturbed.
"""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.compiling import QUICK
from tests.training.test_resume import command

ROOT = pathlib.Path(__file__).resolve().parents[2]
MORE = {"total_steps": 72, "batch_size": 8, "measure_every_steps": 0, "distributed.lost_host_seconds": 20}


class Pod:
    """A `launch/local_pod.py` whose output is read as it comes."""

    def __init__(self, words, *, processes, devices, grace=60):
        launcher = [sys.executable, str(ROOT / "launch" / "local_pod.py")]
        launcher += [f"--processes={processes}", f"--devices={devices}", f"--grace_seconds={grace}", "--", *words[3:]]
        self.lines = []
        self.process = subprocess.Popen(launcher, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.pids = [int(pid) for pid in self.wait_for(r"local_pod: pids (.*)")[1].split()]

    def wait_for(self, pattern):
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(pattern, line)
            if found:
                return found
        raise AssertionError(f"no {pattern!r} in:\n{''.join(self.lines)}")

    def end(self, timeout=300):
        """(exit code, all that was printed, seconds it took from now)."""
        begin = time.monotonic()
        rest, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, "".join(self.lines) + rest, time.monotonic() - begin


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return np.array([line["loss"] for line in lines])


def newest(workdir):
    steps = [path for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    return max(steps, key=lambda path: int(path.name))


@pytest.fixture(scope="module")
def straight(tmp_path_factory, digits):
    folder = tmp_path_factory.mktemp("straight")
    more = MORE | {"checkpoint.every_steps": 1000}
    subprocess.run(command(folder, digits, folder / "run", **more), check=True, timeout=600)
    return losses(folder / "run")


def test_four_lives_of_one_run(tmp_path, digits, straight):
    workdir = tmp_path / "run"

    pod = Pod(command(tmp_path, digits, workdir, **MORE), processes=2, devices=1)
    pod.wait_for(r"step 6/")
    os.kill(pod.pids[1], signal.SIGTERM)
    code, text, _ = pod.end()
    assert code == 143, text
    stopped = int(re.search(r"preempted at step (\d+)", text)[1])
    assert int(newest(workdir).name) == stopped < MORE["total_steps"]

    words = command(tmp_path, digits, workdir, **MORE, **{"mesh.fsdp": 2, "mesh.tensor": 2})
    pod = Pod(words, processes=2, devices=2)
    pod.wait_for(rf"resuming at step {stopped}")
    pod.wait_for(rf"step {stopped + 6}/")
    os.kill(pod.pids[1], signal.SIGKILL)
    code, text, seconds = pod.end()
    assert code == 128 + signal.SIGKILL, text
    assert seconds < 20 + 10
    assert re.search(r"another host of this run was lost|another task died", text), text
    assert len(losses(workdir)) < MORE["total_steps"]

    cut = newest(workdir)
    biggest = max((path for path in cut.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(biggest, biggest.stat().st_size // 2)
    pod = Pod(command(tmp_path, digits, workdir, **MORE), processes=2, devices=1)
    pod.wait_for(rf"the checkpoint of step {cut.name} cannot be read")
    pod.wait_for(rf"step {int(cut.name) + 1}/")
    pod.process.send_signal(signal.SIGTERM)
    code, text, _ = pod.end()
    assert code == 143, text
    assert (workdir / "checkpoints" / f"broken_{cut.name}").is_dir()

    subprocess.run(command(tmp_path, digits, workdir, **MORE), check=True, timeout=600)
    np.testing.assert_allclose(losses(workdir), straight, rtol=2e-5)


def test_a_host_that_falls_silent_is_given_up(tmp_path, digits):
    """Frozen, not dead: its connections stay open, so nothing but the missing heartbeats tells the other."""
    more = MORE | {"total_steps": 5000, "distributed.lost_host_seconds": 8, "distributed.stall_seconds": 0}
    pod = Pod(command(tmp_path, digits, tmp_path / "run", **more), processes=2, devices=1, grace=1)
    pod.wait_for(r"step 2/")
    os.kill(pod.pids[1], signal.SIGSTOP)
    code, text, seconds = pod.end()
    assert code == 175, text
    assert seconds < 8 + 20
    assert "host 0: another host of this run was lost" in text and "process 0 (pid" in text, text


def pair(*commands):
    """Two hosts with a command line each: [(exit code, standard error)]."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    cluster = {"CRATE_JAX_COORDINATOR": address, "CRATE_JAX_PROCESSES": "2", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK}
    hosts = [
        subprocess.Popen(
            words, stderr=subprocess.PIPE, text=True, env={**os.environ, **cluster, "CRATE_JAX_PROCESS": str(number)}
        )
        for number, words in enumerate(commands)
    ]
    texts = [host.communicate(timeout=240)[1] for host in hosts]
    return [(host.returncode, text) for host, text in zip(hosts, texts, strict=True)]


@pytest.mark.parametrize(
    ("both", "second", "says"),
    [
        ({}, {"seed": 1}, "seed=1 is 0 on host 0"),
        ({"batch_size": 9}, {}, "batch_size=9"),
        ({}, {"workdir": "elsewhere"}, "is not the folder that host 0 has under this name"),
    ],
)
def test_hosts_that_cannot_run_together_end_with_one_sentence(tmp_path, digits, monkeypatch, both, second, says):
    more = MORE | both
    workdirs = [tmp_path / "run", tmp_path / second.pop("workdir", "run")]
    words = [command(tmp_path, digits, workdir, **more) for workdir in workdirs]
    words[1] += [f"--config.{name}={value}" for name, value in second.items()]
    ends = pair(*words)
    assert [code for code, _ in ends] == [1, 1], ends
    for _, text in ends:
        assert says in text and "Traceback" not in text and "Fatal" not in text, text
    assert not any(workdir.exists() and any(workdir.iterdir()) for workdir in workdirs)


EVERY_COMMAND = """
import pathlib, sys
from crate_jax.cli.main import run, _settings
from crate_jax.config import default_config
from crate_jax.distributed.hosts import joined
with joined(default_config().distributed):
    for line in pathlib.Path(sys.argv[1]).read_text().splitlines():
        assert run(line.split("\\x1f")) == 0, line
"""


@pytest.mark.skipif("CRATE_JAX_SLOW_TESTS" not in os.environ, reason="ten minutes; CRATE_JAX_SLOW_TESTS=1 runs it")
def test_every_command_on_two_hosts(tmp_path, digits):
    """The numbers of one process; one after the other in the same processes, so that they start once."""
    short = MORE | {"total_steps": 8, "evaluate_every_steps": 8, "measure_every_steps": 8, "model.depth": 2}
    short |= {"data.train_split": "train[:200]", "data.validation_split": "test[:64]"}
    results = {}
    for hosts in (1, 2):
        workdir = tmp_path / f"run{hosts}"
        lines = [command(tmp_path, digits, workdir, **short)[3:]]
        of = [f"--workdir={workdir}", "--features=mean@encoder_00"]
        lines += [["knn", *of], ["probe", *of], ["reconstruct", f"--workdir={workdir}", "--limit=16"]]
        lines += [["features", f"--workdir={workdir}", "--split=test[:50]", f"--out={workdir}/f.npz"]]
        recipe = {"total_steps": 3, "batch_size": 8, "log_every_steps": 1, "optimizer.warmup_steps": 1}
        lines += [["finetune", f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in recipe.items())]]
        (tmp_path / "lines").write_text("\n".join("\x1f".join(line) for line in lines))
        words = [sys.executable, "-c", EVERY_COMMAND, str(tmp_path / "lines")]
        if hosts == 1:
            subprocess.run(words, check=True, timeout=600)
        else:
            ends = pair(words, words)
            assert [code for code, _ in ends] == [0, 0], ends
        found = {name: json.loads((workdir / f"{name}.json").read_text()) for name in ("knn", "probe", "finetune")}
        metrics = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
        features = np.load(workdir / "f.npz")["features_NxG"]
        mse = json.loads((workdir / "reconstruction.json").read_text())["masked_mse"]
        numbers = [found[name]["accuracy"] for name in found] + [metrics["evaluation/knn"], metrics["loss"], mse]
        results[hosts] = numbers, features
        assert not list(workdir.rglob("*.partial")) and not list(workdir.rglob("*.draft"))
    np.testing.assert_allclose(results[2][0], results[1][0], atol=0.02)
    np.testing.assert_allclose(results[2][1], results[1][1], rtol=1e-3, atol=1e-4)


def test_the_launcher_ends_with_the_first_failure():
    words = [*command_words("inspect"), "--model=crate_mae_tyni"]
    code, text, _ = Pod(words, processes=2, devices=1).end()
    assert code == 1
    assert "did you mean crate_mae_tiny" in text
    assert {line[:3] for line in text.splitlines() if "tyni" in line} <= {"[0]", "[1]"}


def command_words(name):
    return [sys.executable, "-m", "crate_jax", name]
