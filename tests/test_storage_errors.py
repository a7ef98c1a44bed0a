"""Errors of storage that pass end a program with 175, which launchers retry; others with 1; faults keep a traceback."""

import errno
import os
import shutil
import subprocess
import sys

import jax
import pytest

from crate_jax import storage_errors
from crate_jax.errors import LOST_HOST, UserError
from crate_jax.interop.tensor_files import finished
from crate_jax.storage import write_whole
from crate_jax.storage_errors import explained, retried, storage_failure, user_errors
from crate_jax.training.checkpoint import Checkpoints
from crate_jax.training.metrics_file import MetricsFile


def of(module, kind, text, base=Exception, **attributes):
    """An exception as a library raises it, which need not be installed."""
    error = type(kind, (base,), {"__module__": module} | attributes)(text)
    return error


def disk(name):
    return OSError(getattr(errno, name), os.strerror(getattr(errno, name)), "/disk/file")


TENSORFLOW = "tensorflow.python.framework.errors_impl"
PASSING = [
    *map(disk, ("EIO", "ESTALE", "ETIMEDOUT", "ECONNRESET", "EMFILE")),
    TimeoutError("timed out"),
    ConnectionResetError("reset"),
    OSError("503 Service Unavailable"),
    OSError(f"INTERNAL: {os.strerror(errno.EIO)}; reading /data/a.array_record"),
    ValueError("ABORTED: All 32 retry attempts failed: busy [http_response_code='503']"),
    ValueError("UNAVAILABLE: the bucket does not answer"),
    ValueError("UNKNOWN: Failed to read: Input/output error [os_error_code='5']"),
    of(TENSORFLOW, "AbortedError", "All 10 retry attempts failed. HTTP response code 503 with body"),
    of(TENSORFLOW, "AbortedError", "All 10 retry attempts failed. HTTP response code 429 with body"),
    of("google.api_core.exceptions", "TooManyRequests", "429 GET https://", code=429),
    of("gcsfs.retry", "HttpError", "backend, 503", code=503),
    of("aiohttp.client_exceptions", "ClientOSError", "Cannot connect", OSError),
    of("requests.exceptions", "ProxyError", "", OSError),
    of("ssl", "SSLError", "the connection was cut", OSError, errno=1),
]
LASTING = [
    *map(disk, ("ENOSPC", "EROFS", "EACCES", "EDQUOT")),
    OSError("Forbidden: bucket/a"),
    ValueError("PERMISSION_DENIED: no [http_response_code='403']"),
    ValueError("RESOURCE_EXHAUSTED: No space left on device [os_error_code='28']"),
    of(TENSORFLOW, "PermissionDeniedError", "HTTP response code 403 with body"),
    of(TENSORFLOW, "NotFoundError", "HTTP response code 404 with body"),
    of("google.api_core.exceptions", "Conflict", "409 POST https://", code=409),
    of("google.auth.exceptions", "DefaultCredentialsError", "no credentials"),
    of("gcsfs.retry", "HttpError", "Invalid Credentials, 401", code=401),
    ImportError("Please install gcsfs to access Google Storage"),
]
OTHERS = [
    RuntimeError("UNAVAILABLE: another task"),
    ValueError("a shape"),
    KeyError("x"),
    of("google.protobuf", "E", ""),
]


@pytest.mark.parametrize("error", PASSING + LASTING, ids=repr)
def test_what_passes_is_tried_again_by_launchers_and_what_lasts_is_not(error):
    told = explained(error)
    assert isinstance(told, UserError) and getattr(told, "exit_code", 1) == (LOST_HOST if error in PASSING else 1)
    assert len(str(told).splitlines()) == 1 and str(told).endswith(", and run the same command again.")
    with pytest.raises(UserError, match=r"^the log is not written: ") as raised, user_errors("the log is not written"):
        raise error
    assert type(raised.value) is type(told)


def test_a_fault_of_the_package_keeps_its_traceback():
    assert not any(map(storage_failure, OTHERS))
    for error in (*OTHERS, FileNotFoundError(errno.ENOENT, "No such file", "x"), OSError("not an image")):
        assert explained(error) is None
    with pytest.raises(KeyError), user_errors("never said"):
        raise OTHERS[2]


class Fails:
    """A function that fails some times."""

    def __init__(self, error, times):
        self.error, self.times = error, times

    def __call__(self, *_, **__):
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return b"content"


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were waited."""
    waited = []
    monkeypatch.setattr(storage_errors.time, "sleep", waited.append)
    return waited


def test_what_cannot_be_read_is_retried_then_named(waits, caplog):
    assert retried(Fails(disk("EIO"), 2), "/data/a.jpg") == b"content"
    assert waits == list(storage_errors.WAITS[:2]) and "/data/a.jpg cannot be read" in caplog.text
    for error in (disk("EMFILE"), TimeoutError("timed out")):
        with pytest.raises(UserError, match=r"/data/a\.jpg cannot be read: .*(open files|timed out)") as raised:
            retried(Fails(error, 99), "/data/a.jpg")
        assert raised.value.exit_code == LOST_HOST
    waits.clear()
    for error in (FileNotFoundError(errno.ENOENT, "No such file"), OSError("403 Forbidden"), disk("ENOSPC")):
        with pytest.raises(UserError, match="cannot be read") as raised:
            retried(Fails(error, 99), "gs://bucket/a.jpg")
        assert not waits and not hasattr(raised.value, "exit_code")
    with pytest.raises(UserError, match="a file that is cut off") as raised:  # which its reader does not number
        retried(Fails(OSError("a file that is cut off"), 99), "/data/a.array_record")
    assert len(waits) == len(storage_errors.WAITS) and not hasattr(raised.value, "exit_code")
    with pytest.raises(RuntimeError):
        retried(Fails(RuntimeError("a fault of ours"), 99), "/data/a.jpg")


def test_results_and_the_log_are_written_at_a_later_attempt_or_name_the_file(tmp_path, waits, monkeypatch):
    write = Fails(disk("EIO"), 2)
    monkeypatch.setattr("crate_jax.storage.write_once", lambda *arguments: write(*arguments))
    write_whole(tmp_path / "probe.json", "{}")
    assert len(waits) == 2
    log = MetricsFile(tmp_path / "metrics.jsonl")
    log.started(0)
    for error, code in ((disk("EIO"), LOST_HOST), (disk("ENOSPC"), 1)):
        write = Fails(error, 99)
        with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written: .*(Input/output|No space)") as raised:
            log.started(0)
        assert getattr(raised.value, "exit_code", 1) == code


@pytest.mark.parametrize(("name", "code"), [("EIO", LOST_HOST), ("EROFS", 1)])
def test_a_checkpoint_that_cannot_be_written(name, code, tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.steps() == []
    from tests.distributed.test_damaged_checkpoints import state

    def save(*_, **__):
        raise RuntimeError("Orbax: the save failed") from disk(name)

    monkeypatch.setattr(checkpoints._manager, "save", save)
    with pytest.raises(UserError, match=r"step 3 could not be written to .*/c \(older ones are untouched\)") as raised:
        checkpoints.save(3, state(3))
    assert getattr(raised.value, "exit_code", 1) == code
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="step 4 could not be written"):
        Checkpoints(tmp_path / "file").save(4, state(4))


def test_a_converted_file_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    for error in (disk("ENOSPC"), OSError(errno.ENOSPC, "No space left on device")):  # a write has no name of its file
        with (
            pytest.raises(UserError, match=r"x\.pth cannot be written: .*; the disk is full"),
            finished(tmp_path / "new" / "x.pth") as partial,
        ):
            partial.write_bytes(b"half")
            raise error
    assert not list((tmp_path / "new").iterdir())


CLOSED = """
import os, sys
from crate_jax.cli.main import main
from crate_jax.pretrained import from_pretrained
from crate_jax.errors import UserError
folder, out = sys.argv[1:]
for line in (
    ["knn", f"--workdir={folder}", f"--out={out}"],
    ["finetune", f"--workdir={folder}", f"--out={out}"],
    ["compare", folder, f"--out={out}"],
    ["convert", "--to=flax", folder, f"{out}/x"],
    ["knn", f"--checkpoint={folder}", f"--out={out}"],
    ["knn", f"--checkpoint={folder}/x.pth", "--config=quickstart", f"--out={out}"],
    ["pretrain", f"--config={folder}/x.py", f"--workdir={out}"],
    ["reconstruct", "--checkpoint=photographs", f"--images={folder}/x.png", f"--out={out}"],
):
    print(main(line), line)
for source in (folder, f"{folder}/x.pth"):
    try:
        from_pretrained(source)
    except UserError as error:
        print("crate-jax:", error, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes."),
        jax.errors.JaxRuntimeError("INTERNAL: Error dispatching computation: Out of memory allocating 13503 bytes."),
        MemoryError("Unable to allocate 8.00 GiB for an array with shape (1073741824,) and data type float64"),
    ],
)
def test_too_little_memory_is_a_sentence_with_advice(error):
    told = str(explained(error))
    assert told.startswith("there is too little memory (") and "accumulate=2" in told and str(error)[-20:] in told
    assert explained(jax.errors.JaxRuntimeError("INTERNAL: something else")) is None


def test_what_another_user_closed_is_not_said_to_be_missing(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "run").chmod(0)
    as_others = []
    if os.access(tmp_path / "run", os.X_OK):  # root, who may read all the same
        if not (setpriv := shutil.which("setpriv")):
            pytest.skip("no setpriv to take root's rights away")
        rights = "-dac_override,-dac_read_search"
        as_others = [setpriv, f"--bounding-set={rights}", f"--inh-caps={rights}"]
    line = [*as_others, sys.executable, "-c", CLOSED, tmp_path / "run", tmp_path / "out"]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=300)
    (tmp_path / "run").chmod(0o755)
    told = [line for line in ended.stderr.splitlines() if line.startswith("crate-jax: ")]
    assert len(told) == 10 and ended.stdout.count("1 [") == 8, ended.stderr
    assert all("cannot be read" in line and "Permission denied" in line for line in told), told
