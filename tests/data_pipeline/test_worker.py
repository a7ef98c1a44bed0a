"""Worker processes give what threads give, pass on errors, and end with their parent; files that cannot be read."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from crate_jax import cores
from crate_jax.config import default_config, override
from crate_jax.data import batches, loader, pipeline
from crate_jax.data.picture import png
from crate_jax.data.sources import open_source
from crate_jax.errors import UserError

SCRIPT = """
import time
from crate_jax.config import default_config
from crate_jax.data import pipeline
print("script", flush=True)
config = default_config()
config.data.name, config.batch_size = "embedded_digits", 100
config.data.num_workers, config.data.worker_processes = 2, 2
batches = pipeline.train_batches(config, 28, 1, None)
found = [int(i) for _ in range(3) for i in next(batches)["index"]]
config.data.worker_processes = 0
alone = pipeline.train_batches(config, 28, 1, None)
assert found == [int(i) for _ in range(3) for i in next(alone)["index"]]
import multiprocessing
print(*[child.pid for child in multiprocessing.active_children()], flush=True)
time.sleep(60)
"""


def is_running(pid):
    """Whether a process is there, and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def blocked(pid):
    """Which signals a process does not get."""
    status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    return {number for number in signal.valid_signals() if int(status["SigBlk"], 16) >> (number - 1) & 1}


def test_a_script_without_a_guard_runs_once_and_workers_end_when_it_is_killed(tmp_path):
    """Each process would run the script again, or import its neighbour `random.py`, if it were not kept from it."""
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "random.py").write_text("raise SystemExit('the wrong random')")
    words = [sys.executable, str(tmp_path / "train.py")]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path / "cwd")
    assert running.stdout.readline() == "script\n"
    workers = running.stdout.readline().split()
    assert len(workers) == 2 and all(map(is_running, workers)), running.communicate()
    for worker in workers:  # Ctrl-C or a scheduler tells the whole group, and the parent needs their batches to save
        assert blocked(worker) >= {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    running.kill()
    assert "script" not in running.communicate()[0]
    ended_soon(lambda: not any(map(is_running, workers)))


def ended_soon(ended):
    for _ in range(300):
        if ended():
            return
        time.sleep(0.1)
    pytest.fail("a worker did not end for half a minute")


@pytest.mark.parametrize("when", ["at once", "while it sends"])
def test_processes_change_nothing_and_pass_on_errors(when, config, tmp_path, monkeypatch):
    """Rows travel through pipes here, as in a container with little shared memory, whose worker is killed for it."""
    monkeypatch.setattr(batches, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(loader, "shared_memory_holds", lambda needed: False)
    for number in range(20):
        (tmp_path / f"{number}.jpg").write_bytes(b"no picture")
    config.data.num_workers, config.data.worker_processes = 1, 1
    iterator = pipeline.train_batches(config, 32, 3, None)
    made = next(iterator)
    config.data.worker_processes = 0
    alone = next(pipeline.train_batches(config, 32, 3, None))
    for key, value in alone.items():
        np.testing.assert_array_equal(value, made[key])
    (worker,) = multiprocessing.active_children()
    if when == "while it sends":
        time.sleep(1)  # until what lies ahead is made, and the pipe is full
    worker.kill()
    with pytest.raises(UserError, match=r"killed by signal 9 \(SIGKILL\), often for want of memory; choose fewer"):
        for _ in range(100):
            next(iterator)
    iterator.close()
    config.data.name, config.data.data_dir, config.data.worker_processes = "image_folder", str(tmp_path), 1
    with pytest.raises(UserError, match="are corrupt"):
        next(pipeline.train_batches(config, 32, 3, None))
    ended_soon(lambda: not multiprocessing.active_children())


def test_little_shared_memory_is_noticed(monkeypatch, caplog):
    usage = type("Usage", (), {"free": 60 * 2**20})
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda path: usage)
    assert loader.shared_memory_holds(20 * 2**20)
    assert not loader.shared_memory_holds(50 * 2**20) and "--shm-size=100m" in caplog.text
    monkeypatch.setattr(loader, "SHARED_MEMORY", "/there/is/none")
    assert not loader.shared_memory_holds(1)


def test_by_the_machine(config, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(96)), raising=False)
    monkeypatch.setattr(cores, "cpu_quota", lambda: 5)
    assert pipeline.workers_of(config, 224) == (5, 0)
    monkeypatch.setattr(cores, "cpu_quota", lambda: None)
    assert pipeline.workers_of(config, 224) == (8, 8)
    assert pipeline.workers_of(config, 32) == (0, 0)
    config.data.num_workers = 4
    assert pipeline.workers_of(config, 224) == (4, 0)
    config.data.num_workers, config.data.worker_processes = 20, 0
    assert pipeline.workers_of(config, 224) == (20, 0)
    config.data.worker_processes = 3
    assert pipeline.workers_of(config, 224) == (7, 3)


@pytest.mark.parametrize(
    ("platform", "cores", "expected"),
    [("gpu", 16, (1, 8)), ("tpu", 96, (1, 16)), ("gpu", 2, (0, 0)), ("cpu", 16, (0, 0))],
)
def test_an_accelerator_does_not_wait_for_little_pictures(platform, cores, expected, monkeypatch):
    """One thread made 2,400 pictures of 64 pixels a second beside a GPU that waited for 96 % of the time."""
    monkeypatch.setattr(pipeline.jax, "default_backend", lambda: platform)
    monkeypatch.setattr(pipeline, "available_cores", lambda: list(range(cores)))
    config = default_config()
    assert pipeline.workers_of(config, (64, 64)) == expected
    assert pipeline.workers_of(override(config, [("data.num_workers", 1), ("data.worker_processes", 0)]), 32) == (1, 0)


def test_a_picture_that_vanishes_ends_the_run(config, tmp_path, monkeypatch):
    """It is not counted as corrupt: other hosts may still see it, and would train on other data."""
    monkeypatch.setattr("crate_jax.storage_errors.time.sleep", lambda seconds: None)
    source = open_source("embedded_photographs", "test")
    for number, example in enumerate(source.read(range(40))):
        path = tmp_path / "class" / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(example.image))
    config.data.name, config.data.data_dir = "image_folder", str(tmp_path)
    opened = open_source("image_folder", "train", tmp_path)
    (tmp_path / "class" / "07.png").unlink()
    monkeypatch.setattr(pipeline, "open_source", lambda *_: opened)
    with pytest.raises(UserError, match=r"07\.png cannot be read"):
        list(pipeline.evaluation_batches(config, "train", 32, 3, 16))


def test_a_thread_that_reads_for_ever_does_not_keep_the_program():
    code = (
        "import sys, threading, crate_jax.__main__ as program; program._SECONDS_TO_READ = 0.1; "
        "hang = threading.Thread(target=threading.Event().wait, name='grain-prefetch_0'); "
        "program.main = lambda: hang.start() or 143; sys.exit(program.program())"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 143
