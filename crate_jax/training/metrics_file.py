"""`metrics.jsonl`: one JSON object a line, a line per logged step. Floats read back bit-equal.

Object stores cannot be appended to: there the text is kept and written whole, from a thread, every few seconds, before
each checkpoint and at the end. On a local disk lines are appended.
"""

import json
import logging
import threading

from etils import epath

from crate_jax.errors import UserError
from crate_jax.storage import is_remote, write_whole
from crate_jax.storage_errors import user_errors
from crate_jax.training.loop import Observer

WRITE_SECONDS = 15.0  # between uploads


class MetricsFile(Observer):
    """Writes each line of the log to a file.

    Raises `UserError` where a line cannot be written; in an object store, before a checkpoint or at the end.
    """

    def __init__(self, path):
        self._path, self._remote = epath.Path(path), is_remote(path)
        self._lines, self._written = [], 0  # how many are; a run that has nothing left to do writes none
        self._one_at_a_time, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="crate-jax metrics", daemon=True)

    def started(self, step):
        """Cuts off the lines after this step, of a life of the run that its checkpoints have forgotten."""
        self._lines = [json.dumps(line) for line in read_metrics(self._path) if line["step"] <= step]
        self._written = None
        self._upload()
        if self._remote:
            self._thread.start()

    def logged(self, step, scalars):
        line = json.dumps({"step": int(step), **scalars})
        if self._remote:
            self._lines.append(line)
            return
        with user_errors(f"{self._path} cannot be written"), open(self._path, "a") as file:
            file.write(line + "\n")

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
            except UserError as error:
                logging.warning("%s", error)  # the next attempt may succeed; the one before a checkpoint has to

    def _upload(self):
        """Writes the whole text, if it changed since; lines that were appended are written already."""
        with self._one_at_a_time:
            count = len(self._lines)  # the loop goes on, and does not wait for a slow upload
            if count != self._written:
                write_whole(self._path, "".join(line + "\n" for line in self._lines[:count]))
                self._written = count


def read_metrics(path):
    """Every line of a `metrics.jsonl` as a dictionary, in order; [] where there is none.

    What is no such line is skipped: a killed process left it half-written, or a disk was full.
    """
    lines, path = [], epath.Path(path)
    with user_errors(f"{path} cannot be read"):
        text = path.read_bytes() if path.exists() else b""
    for line in text.decode("utf-8", "replace").splitlines():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and isinstance(found.get("step"), int):
            lines.append(found)
    return lines
