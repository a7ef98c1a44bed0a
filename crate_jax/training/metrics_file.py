"""`metrics.jsonl`: one JSON object a line, a line per logged step. Floats read back bit-equal.

Object stores cannot be appended to: there the text is kept and written whole, from a thread, every few seconds, before
each checkpoint and at the end. On a local disk lines are appended.
"""

import json
import threading

from etils import epath

from crate_jax.errors import UserError
from crate_jax.storage import is_remote, storage_error, write_whole
from crate_jax.training.loop import Observer

WRITE_SECONDS = 15.0  # between uploads


class MetricsFile(Observer):
    """Writes each line of the log to a file.

    Every method raises `UserError` where a line could not be written, this one or one before it.
    """

    def __init__(self, path):
        self._path, self._remote = epath.Path(path), is_remote(path)
        self._lines, self._changed, self._failed = [], False, None
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="crate-jax metrics", daemon=True)

    def started(self, step):
        """Cuts off the lines after this step, of a life of the run that its checkpoints have forgotten."""
        self._lines = [json.dumps(line) for line in read_metrics(self._path) if line["step"] <= step]
        self._changed = True
        self._upload()
        if self._remote:
            self._thread.start()

    def logged(self, step, scalars):
        line = json.dumps({"step": int(step), **scalars})
        if self._remote:
            with self._lock:
                self._lines.append(line)
                self._changed = True
            if self._failed is not None:
                raise self._unwritten(self._failed)
            return
        try:
            with open(self._path, "a") as file:
                file.write(line + "\n")
        except OSError as error:
            raise self._unwritten(error) from error

    def saving(self, step):
        self._upload()

    def close(self):
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._upload()

    def _run(self):
        while not self._closed.wait(WRITE_SECONDS):
            try:
                self._upload()
                self._failed = None
            except UserError as error:
                self._failed = error.__cause__

    def _upload(self):
        """Writes the whole text, if it changed since; lines that were appended are written already."""
        with self._lock:
            if self._changed:
                try:
                    write_whole(self._path, "".join(line + "\n" for line in self._lines))
                except Exception as error:
                    raise self._unwritten(error) from error
                self._changed = False

    def _unwritten(self, error):
        words = storage_error(error) or f"{type(error).__name__}: {error}"
        return UserError(f"{self._path} cannot be written: {words}. Make room there, and run the same command again.")


def read_metrics(path):
    """Every line of a `metrics.jsonl` as a dictionary, in order; [] where there is none.

    What is no such line is skipped: a killed process left it half-written, or a disk was full.
    """
    lines, path = [], epath.Path(path)
    for line in path.read_bytes().decode("utf-8", "replace").splitlines() if path.exists() else ():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and isinstance(found.get("step"), int):
            lines.append(found)
    return lines
