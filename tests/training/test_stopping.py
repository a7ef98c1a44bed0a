"""Told to stop, by Ctrl-C, SIGTERM or a closed terminal; saved by time; two runs in one folder; refused runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import jax.numpy as jnp
import pytest

from crate_jax.config import default_config, override
from crate_jax.distributed import folder_lock
from crate_jax.distributed.folder_lock import FolderLock
from crate_jax.distributed.signals import Preemption, ProgramSignals, StopRequested
from crate_jax.errors import UserError
from crate_jax.storage import output_folder
from crate_jax.training import observers, run
from crate_jax.training.checkpoint import Checkpoints
from crate_jax.training.loop import Observer
from crate_jax.training.metrics_file import MetricsFile, read_metrics
from crate_jax.training.run_folder import RunFolder
from crate_jax.training.save_times import SaveTimes
from tests.training.test_resume import command, start, wait_for_step

LONG = {"total_steps": 100000, "checkpoint.every_steps": 100000, "measure_every_steps": 0}


def saved_steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_ctrl_c_saves_says_how_to_resume_and_frees_the_folder(tmp_path, digits, tiny):
    from crate_jax import pretrain

    process = start(command(tmp_path, digits, tmp_path / "run", **LONG))
    wait_for_step(process, 6)
    with pytest.raises(UserError, match=rf"is in use by another run \(process {process.pid} on"):
        pretrain(override(tiny, LONG.items()), tmp_path / "run")
    process.send_signal(signal.SIGINT)
    text = process.stderr.read()
    assert process.wait() == 143, text
    (step,) = saved_steps(tmp_path / "run")
    assert f"interrupted at step {step} of 100000, checkpoint saved; rerun the same command to resume" in text
    assert not (tmp_path / "run" / folder_lock.NAME).exists()
    logged = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert logged == list(range(1, step + 1)), "the line of the saved step as well"


def test_minutes_count_beside_steps(monkeypatch):
    clock = [0.0]
    times = SaveTimes(types.SimpleNamespace(every_steps=700, every_minutes=1.0), 0, clock=lambda: clock[0])
    due = []
    for step in range(1, 1001):
        clock[0] += 0.3
        if times.due(step):
            due.append(step)
            times.saved()
    gaps = [after - before for before, after in zip([0, *due], due, strict=False)]
    assert 700 in due and all(
        190 <= gap <= 225 or step == 700 or due[due.index(step) - 1] == 700 for gap, step in zip(gaps, due, strict=True)
    )
    never = SaveTimes(types.SimpleNamespace(every_steps=7, every_minutes=0.0), 0, clock=lambda: clock[0])
    assert [step for step in range(1, 20) if never.due(step)] == [7, 14]


def test_python_gets_its_keyboard_interrupt_after_saving(tmp_path, tiny):
    from crate_jax import pretrain

    config = override(tiny, LONG.items())
    log = tmp_path / "run" / "metrics.jsonl"

    def press():
        while not log.exists() or not log.read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    # a process that a shell started in the background ignores SIGINT
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, tmp_path / "run")
    assert saved_steps(tmp_path / "run")[0] >= 1
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_wait_for_data(number):
    signal.signal(number, signal.SIG_DFL)  # which nohup changes, for the tests as well
    with Preemption() as preemption:
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        with pytest.raises(StopRequested), preemption.waiting_for_data():
            threading.Event().wait(20)
        assert preemption.reached(1) and not preemption.interrupted
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_closed_terminal_means_nothing_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ProgramSignals() as signals, Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.noted is None and not preemption.reached(1)
    finally:
        signal.signal(signal.SIGHUP, before)


IMPORTING = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
from crate_jax.distributed.signals import ProgramSignals
from crate_jax.cli.main import main
import crate_jax.cli.{command} as command
class Finder:
    def find_spec(self, name, *_):
        if name == "crate_jax.config":
            os.kill(os.getpid(), signal.{name})
            {then}
sys.meta_path.insert(0, Finder())
sys.modules.pop("crate_jax.config", None)
sys.exit(main(["{command}", "--config=quickstart", {more}]))
"""


@pytest.mark.parametrize(
    ("command", "name", "then", "code"),
    [
        ("pretrain", "SIGINT", "pass", 130),
        ("pretrain", "SIGTERM", "pass", 143),
        ("pretrain", "SIGHUP", "pass", 128 + signal.SIGHUP),
        ("inspect", "SIGINT", "pass", 130),
        ("inspect", "SIGINT", "raise ImportError", 130),
        ("inspect", "SIGTERM", "pass", -signal.SIGTERM),
    ],
)
def test_a_signal_while_the_program_starts(command, name, then, code, tmp_path):
    more = f"'--workdir={tmp_path}/run'" if command == "pretrain" else ""
    code_text = IMPORTING.format(command=command, name=name, then=then, more=more)
    done = subprocess.run([sys.executable, "-c", code_text], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


COMPILING = """
import ctypes, os, signal, sys, threading
from crate_jax.distributed.signals import ending_at_once
with ending_at_once():
    signal.signal(signal.SIGTERM, lambda *_: print("a stack", file=sys.stderr))  # as a library does
    threading.Timer(0.5, os.kill, (os.getpid(), signal.{name})).start()
    ctypes.CDLL(None).sleep(60)  # no Python runs meanwhile
"""


@pytest.mark.parametrize(("name", "said"), [("SIGINT", "interrupted"), ("SIGTERM", "SIGTERM")])
def test_a_signal_ends_a_compilation_at_once(name, said):
    code = [sys.executable, "-c", COMPILING.format(name=name)]
    done = subprocess.run(code, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (128 + getattr(signal, name), f"crate-jax: {said}\n")


def test_a_lock_of_a_process_that_is_gone_is_taken_over(tmp_path, monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    lock = {"pid": gone.pid, "started": folder_lock._started(gone.pid), "machine": folder_lock._machine()}
    gone.wait()
    (tmp_path / folder_lock.NAME).write_text(json.dumps(lock | {"host": "here", "beat": time.time()}))
    with FolderLock(tmp_path), pytest.raises(UserError, match="is in use by another run"), FolderLock(tmp_path):
        pass
    for strange in ({"machine": folder_lock._machine()}, {"beat": "x"}, {"beat": None}, []):  # another program's
        (tmp_path / folder_lock.NAME).write_text(json.dumps(strange))
        with FolderLock(tmp_path):
            pass
    # a machine whose processes cannot be looked up: its heartbeats are watched
    monkeypatch.setattr(folder_lock, "SILENT_SECONDS", 0.5)
    away = {"pid": 1, "host": "away", "machine": "another", "started": "1", "beat": time.time()}
    (tmp_path / folder_lock.NAME).write_text(json.dumps(away))
    with FolderLock(tmp_path):
        pass
    monkeypatch.setattr(folder_lock, "SILENT_SECONDS", 10)
    for behind in (0, 3600):  # a clock that shows another time zone's time
        away["beat"] = time.time() - behind
        (tmp_path / folder_lock.NAME).write_text(json.dumps(away))
        later = json.dumps(away | {"beat": away["beat"] + 1})
        threading.Timer(0.1, (tmp_path / folder_lock.NAME).write_text, (later,)).start()
        with pytest.raises(UserError, match="process 1 on away"), FolderLock(tmp_path):
            pass


def test_a_lock_that_cannot_be_removed_hides_no_error(tmp_path):
    """A folder that was made read-only, or deleted: what ended the run is told."""
    with pytest.raises(UserError, match="the checkpoint"), FolderLock(tmp_path / "deleted"):
        shutil.rmtree(tmp_path / "deleted")
        raise UserError("the checkpoint could not be written")
    with pytest.raises(UserError, match="the checkpoint"), FolderLock(tmp_path / "changed") as lock:
        lock._path.unlink()
        lock._path.mkdir()  # as root no folder is read-only
        raise UserError("the checkpoint could not be written")


def test_a_folder_that_was_moved_or_deleted_is_whole_again_with_its_next_checkpoint(tmp_path):
    """It was said that a checkpoint was saved, and the same command refused it for want of config.json."""
    folder, source = RunFolder(tmp_path / "run"), types.SimpleNamespace(fingerprint="of the data", num_examples=5)
    begins = run._Begins(folder, default_config(), source, types.SimpleNamespace(check=lambda: None))
    begins.started(0)
    written = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    folder.path.rename(tmp_path / "elsewhere")
    begins.saving(3)
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == written and len(written) == 2
    folder.config.write_text("of a person")
    begins.saving(4)
    assert folder.config.read_text() == "of a person"


def test_a_lock_that_was_taken_over_ends_its_owner(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "SETTLE_SECONDS", 0.05)
    with FolderLock(tmp_path) as lock:
        lock.check()
        (tmp_path / folder_lock.NAME).write_text(json.dumps({"nonce": "another", "pid": 7, "host": "away"}))
        lock._settled.clear()
        lock._beat()
        with pytest.raises(UserError, match="process 7 on away"):
            lock.check()
    assert json.loads((tmp_path / folder_lock.NAME).read_text())["pid"] == 7, "the other's lock stays"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("runs/a[b]", "cannot hold checkpoints"),
        ("runs/a\\b", "cannot hold checkpoints"),
        ("", "is empty"),
        ("~nobody_here/x", "no home folder"),
        ("r\udce9s", "no text in UTF-8"),
        ("gs:/bucket/run", "two slashes"),
        ("runs/" + 256 * "x", "longer than 255 bytes"),
    ],
)
def test_folders_that_will_not_do(text, says):
    with pytest.raises(UserError, match=says):
        output_folder(text)


def test_a_folder_above_with_a_pattern_in_its_name(tmp_path, monkeypatch):
    (tmp_path / "a[1]").mkdir()
    monkeypatch.chdir(tmp_path / "a[1]")
    with pytest.raises(UserError, match=r"--workdir=run: a folder with \[ \] in its path .*cannot hold checkpoints"):
        output_folder("run")


def test_a_checkpoint_is_read_back_under_any_name(tmp_path):
    state = types.SimpleNamespace(params={"a": jnp.ones(3)}, step=jnp.int32(1), opt_state={}, ema=None)
    for name in ("50%25 #1", "a|b", "%"):
        checkpoints = Checkpoints(output_folder(tmp_path / name))
        checkpoints.save(1, state)  # which reads the first one back
        checkpoints.close()
        assert Checkpoints(tmp_path / name).steps() == [1]


def test_home_is_home(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert str(output_folder("~/x")) == "/somewhere/x"
    assert str(output_folder("gs://bucket/x")) == "gs://bucket/x"


def test_what_failed_before_its_first_checkpoint_binds_nobody(tmp_path, tiny, monkeypatch):
    from crate_jax import pretrain

    class Fails(Observer):
        def after_step(self, step, state, batch):
            raise UserError("not today")

    class Breaks(Observer):
        def close(self):
            raise RuntimeError("cannot close")

    with pytest.raises(UserError, match=r"mesh\.tensor"):
        pretrain(override(tiny, [("mesh.tensor", 1000)]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr("crate_jax.analysis.watching.measuring_observers", lambda program: [Fails()])
    with pytest.raises(UserError, match="not today"):
        pretrain(tiny, tmp_path / "run")
    assert (tmp_path / "run/config.json").exists()
    # an observer that fails to close keeps no checkpoint from being finished
    again = override(tiny, [("seed", 1), ("total_steps", 3)])
    monkeypatch.setattr("crate_jax.analysis.watching.measuring_observers", lambda program: [Breaks()])
    with pytest.raises(RuntimeError, match="cannot close"):
        pretrain(again, tmp_path / "run")
    assert saved_steps(tmp_path / "run") == [3]
    assert not (tmp_path / "run" / folder_lock.NAME).exists()
    monkeypatch.undo()
    (tmp_path / "run/metrics.jsonl").unlink()
    assert pretrain(again, tmp_path / "run").step == 3


def test_a_log_for_people_that_cannot_be_written_says_so_once(caplog):
    class Writer:
        def write_hparams(self, values):
            pass

        def write_scalars(self, step, scalars):
            raise OSError("no space left on device")

    board = observers.Logs("tensorboard", lambda step: Writer(), {})
    board.started(0)
    board.logged(1, {})
    board.logged(2, {})
    board.close()
    assert caplog.text.count("nothing more is written to tensorboard: no space left") == 1


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    log = MetricsFile(tmp_path / "metrics.jsonl")
    log.started(0)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written"):
        log.logged(1, {"loss": 1.0})


def test_lines_that_are_none_are_left_out_of_a_log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    kept, odd = b'{"step": 2, "loss": 0.30000000000000004}', b'[]\nnull\n3\n{}\n{"step": "x"}\n\xff\xfe\n'
    path.write_bytes(b'{"step": 1, "loss": 0.1}\n' + odd + kept + b'\n{"st')
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    MetricsFile(path).started(2)
    assert path.read_text() == '{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 0.30000000000000004}\n'
