"""A sweep on this machine: some points at once, each a process of its own; what is finished is skipped.

`D/sweep.json` lists the points and how they stand; `D/NAME/` is the workdir of a point, `D/NAME/sweep_log.txt` what it
said. Rerun the same command to resume a killed sweep. A point that fails is
reported at the end and stops no other.
"""

import concurrent.futures
import json
import logging
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import threading

from etils import epath

from crate_jax.cores import available_cores
from crate_jax.distributed.cluster import find_cluster, without_cluster
from crate_jax.distributed.compilation_cache import shared_cache
from crate_jax.distributed.devices import chips
from crate_jax.distributed.folder_lock import FolderLock
from crate_jax.distributed.signals import stopping
from crate_jax.errors import LOST_HOST, UserError, how_ended
from crate_jax.storage import is_remote, output_folder, write_json
from crate_jax.storage_errors import user_errors
from crate_jax.sweeps.machine import die_with_parent, shares
from crate_jax.sweeps.points import as_flags

logger = logging.getLogger(__name__)

SWEEP_LOCK = "sweep_running.json"  # beside the lock of a point's run, in the same folder with --point
POINT = "sweep_point.json"  # in a point's workdir, where it ran on its own (--point): what sweep.json says
DONE = "sweep_done.json"  # in a point's workdir: the commands that are finished


class Record:
    """`sweep.json`: written whole, after every change."""

    def __init__(self, sweep, workdir):
        self.path = epath.Path(workdir) / "sweep.json"
        self._lock = threading.RLock()
        self._points = {
            point.name: {"name": point.name, "overrides": point.overrides, "status": "pending"}
            for point in sweep.points
        }
        self._config = sweep.config

    def set(self, name, status, **more):
        """How a point stands: pending, running, done, failed, lost (its storage, or stalled) or stopped."""
        with self._lock:
            kept = {key: self._points[name][key] for key in ("name", "overrides")}
            self._points[name] = kept | {"status": status} | more
            self.write()

    def write(self):
        """Writes the list as it stands."""
        with self._lock:
            write_json(self.path, {"config": self._config, "points": list(self._points.values())})


def commands_of(sweep, point, workdir):
    """The command lines of a point, one after the other: [(name, arguments)]."""
    folder = str(epath.Path(workdir) / point.name)
    lines = [("pretrain", ["pretrain", f"--config={sweep.config}", f"--workdir={folder}", *as_flags(point.overrides)])]
    for text in sweep.evaluate:
        command, *flags = text.split()
        lines.append((text, [command, f"--workdir={folder}", *flags]))
    return lines


def finished(workdir, point):
    """Names of the commands of a point that are finished, with this very config."""
    try:
        done = json.loads((epath.Path(workdir) / point.name / DONE).read_bytes())
        same = done["overrides"] == json.loads(json.dumps(point.overrides)) and done.get("config") == point.fingerprint
        return list(done["commands"]) if same else []
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):  # none, or not as it was written
        return []


class Runner:
    """Runs points as child processes.

    Args:
        sweep: from `load_sweep`.
        workdir: D.
        record: a `Record`.
    """

    def __init__(self, sweep, workdir, record):
        self._sweep, self._workdir, self._record = sweep, epath.Path(workdir), record
        self._children, self.stopped = set(), threading.Event()
        self._cache = shared_cache(self._workdir)  # points differ in less than what is compiled

    def stop(self, *_):
        """Tells every child to save and stop; no further point begins."""
        self.stopped.set()
        for child in list(self._children):
            child.send_signal(signal.SIGTERM)

    def run(self, point, environment, cores):
        """Runs what is left of a point; its status."""
        folder = self._workdir / point.name
        try:
            with user_errors(f"{folder} cannot be used"):
                return self._run(point, folder, environment, cores)
        except UserError as error:
            status = "lost" if getattr(error, "exit_code", 1) == LOST_HOST else "failed"
            self._record.set(point.name, status, error=str(error))  # raises once more where it is of the whole sweep
            logger.error("%s failed: %s", point.name, error)
            return status

    def _run(self, point, folder, environment, cores):
        done = finished(self._workdir, point)
        folder.mkdir(parents=True, exist_ok=True)
        log = _log_of(folder, point)
        self._record.set(point.name, "running")
        for name, arguments in commands_of(self._sweep, point, self._workdir):
            if name in done:
                continue
            code = None if self.stopped.is_set() else self._child(arguments, log, environment, cores)
            if code == 0:
                done = [*done, name]
                note = {"commands": done, "overrides": point.overrides, "config": point.fingerprint}
                write_json(folder / DONE, note)
                continue
            if self.stopped.is_set():
                self._record.set(point.name, "stopped")
                return "stopped"
            why, status = _last_line(log), "lost" if code == LOST_HOST else "failed"
            why = why if code > 0 else f"it {how_ended(code)}; its last line: {why}"
            self._record.set(point.name, status, command=name, exit_code=code, error=why)
            logger.error("%s failed in %s: %s", point.name, name, why)
            return status
        self._record.set(point.name, "done")
        logger.info("%s is done", point.name)
        return "done"

    def _child(self, arguments, log, environment, cores):
        here = str(pathlib.Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
        with open(log, "ab") as stream:
            child = subprocess.Popen(
                # -P: a random.py in the current folder is none of Python's own
                [sys.executable, "-P", "-m", "crate_jax", *arguments],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**self._cache, **without_cluster(os.environ), "PYTHONPATH": paths, **environment},
                preexec_fn=die_with_parent,
            )
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(child.pid, cores)
            self._children.add(child)
            if self.stopped.is_set():  # told while it was being started
                child.send_signal(signal.SIGTERM)
            code = child.wait()
            self._children.discard(child)
        return code


def _log_of(folder, point):
    """Where a point's words go: into its folder, or beside this process where that is in an object store."""
    return pathlib.Path(f"{point.name}.sweep_log.txt" if is_remote(folder) else folder / "sweep_log.txt")


def _last_line(path):
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "it said nothing"


def run_sweep(sweep, workdir, *, parallel=1, only=None):
    """Runs the points that are not finished.

    Args:
        sweep: from `load_sweep`.
        workdir: D.
        parallel: points at once.
        only: name or number of one point; None is all. `sweep.json` is then not written.

    Returns:
        Dictionary from name to status: done, failed, lost or stopped.

    Raises:
        UserError: fewer chips than `parallel`, no such point, a sweep that runs already, or one of several processes.
    """
    if find_cluster(tpu_workers=lambda: 1) is not None:
        raise UserError(
            "a sweep runs its points on one machine, and this is one of several processes; start it once, or let "
            "--emit=slurm write a job per point."
        )
    workdir = output_folder(workdir)
    points = sweep.points if only is None else [find_point(sweep, only)]
    parallel = max(1, min(parallel, len(points)))
    record = Record(sweep, workdir)
    if only is not None:
        record.path = epath.Path(workdir) / points[0].name / POINT
    with FolderLock(record.path.parent, "sweep", SWEEP_LOCK):
        record.write()
        return _run_all(sweep, workdir, points, parallel, record)


def _run_all(sweep, workdir, points, parallel, record):
    cores = available_cores()
    free = queue.Queue()
    for share in shares(parallel, *chips(), cores):
        free.put(share)
    runner, before = Runner(sweep, workdir, record), {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, runner.stop) for number in stopping()}

    def run(point):
        share = free.get()
        try:
            return runner.run(point, *share)
        finally:
            free.put(share)

    try:
        with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
            statuses = list(pool.map(run, points))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return dict(zip([point.name for point in points], statuses, strict=True))


def find_point(sweep, only):
    """A point by its name, or by its number from 0.

    Raises:
        UserError: there is none.
    """
    by_name = {point.name: point for point in sweep.points}
    if only in by_name:
        return by_name[only]
    if re.fullmatch("[0-9]{1,9}", str(only)) and int(only) < len(sweep.points):
        return sweep.points[int(only)]
    raise UserError(f"--point={only}: there is no such point; give a name or 0 to {len(sweep.points) - 1}.")
