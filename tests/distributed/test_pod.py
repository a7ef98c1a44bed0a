"""Several processes on the loopback device: they stop together, notice a lost one, and any number of them goes on.

One run in four lives: two processes, one told to stop; two with other meshes, one killed with -9; two again, with the
newest checkpoint cut in half; one alone. It ends with the losses of a run that was never disturbed.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

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
    stopped = int(re.search(r"stopped, to be gone on with, at step (\d+)", text)[1])
    assert int(newest(workdir).name) == stopped < MORE["total_steps"]

    words = command(tmp_path, digits, workdir, **MORE, **{"mesh.fsdp": 2, "mesh.tensor": 2})
    pod = Pod(words, processes=2, devices=2)
    pod.wait_for(rf"going on from step {stopped}")
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
    assert code == 128 + signal.SIGABRT, text
    assert seconds < 8 + 20
    assert "stopped sending heartbeats" in text and "process 0 (pid" in text, text


def test_the_launcher_ends_with_the_first_failure():
    words = [*command_words("inspect"), "--model=crate_mae_tyni"]
    code, text, _ = Pod(words, processes=2, devices=1).end()
    assert code == 1
    assert "did you mean crate_mae_tiny" in text
    assert {line[:3] for line in text.splitlines() if "tyni" in line} <= {"[0]", "[1]"}


def command_words(name):
    return [sys.executable, "-m", "crate_jax", name]
