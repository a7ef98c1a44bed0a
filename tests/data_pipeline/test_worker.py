"""Worker processes give what threads give, pass on errors, and end with their parent."""

import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from crate_jax.data import pipeline
from crate_jax.data.rows import RowReader, recipe_of
from crate_jax.data.sources import open_source
from crate_jax.data.worker import WorkerProcesses
from crate_jax.errors import UserError


def first_batches(config, count=3):
    iterator = pipeline.train_batches(config, 32, 3, None)
    made = [next(iterator) for _ in range(count)]
    iterator.close()
    return made


def test_processes_change_nothing(config):
    alone = first_batches(config)
    config.data.num_workers, config.data.worker_processes = 2, True
    for one, other in zip(alone, first_batches(config), strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_corrupt_examples_and_errors_are_passed_on(config, tmp_path):
    config.data.name, config.data.data_dir = "image_folder", str(tmp_path)
    config.data.num_workers, config.data.worker_processes = 1, True
    for number in range(20):
        (tmp_path / f"{number}.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match="are corrupt"):
        first_batches(config)


@pytest.fixture
def workers(config):
    source = open_source("embedded_digits", "train", config.data.data_dir)
    started = WorkerProcesses(RowReader(source, recipe_of(config, 28, 1)), 1)
    yield started
    started.close()


def test_a_killed_worker_is_a_sentence(workers):
    images = np.zeros((2, 28, 28, 1), np.uint8)
    labels, valid, damaged = workers.rows([0, 1], [0, 0], images)
    assert valid.all() and not damaged and images.any() and (labels >= 0).all()
    (process,) = workers._all
    process.send_signal(signal.SIGTERM)  # ignored: it is the parent who stops
    workers.rows([0, 1], [0, 0], images)
    process.kill()
    with pytest.raises(UserError, match=r"exit code -9.*fewer data\.num_workers"):
        workers.rows([0, 1], [0, 0], images)


def test_workers_end_with_a_killed_parent(config):
    code = (
        "import sys, time; from crate_jax.data.worker import WorkerProcesses; import pickle; "
        "w = WorkerProcesses(pickle.load(sys.stdin.buffer), 1); print(w._all[0].pid, flush=True); time.sleep(60)"
    )
    reader = RowReader(open_source("embedded_digits", "train", config.data.data_dir), recipe_of(config, 28, 1))
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    parent.stdin.write(pickle.dumps(reader))
    parent.stdin.close()
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(300):
        if not os.path.exists(f"/proc/{worker}"):
            return
        with open(f"/proc/{worker}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == "Z":
                return
        time.sleep(0.1)
    pytest.fail("the worker outlived its parent by half a minute")


def test_by_the_machine(config, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(96)), raising=False)
    assert pipeline.workers_of(config, 224) == (64, True)
    assert pipeline.workers_of(config, 32) == (0, False)
    config.data.num_workers = 4
    assert pipeline.workers_of(config, 224) == (4, False)
