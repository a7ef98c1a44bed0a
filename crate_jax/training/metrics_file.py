"""`metrics.jsonl`: one JSON object a line, a line per logged step. Floats read back bit-equal.

Object stores cannot be appended to: there the text is kept and written whole, from a thread, every few seconds, before
each checkpoint and at the end. On a local disk lines are appended.
"""

import json
import threading

from etils import epath

from crate_jax.errors import UserError
from crate_jax.storage import is_remote, storage_error, write_whole

WRITE_SECONDS = 15.0  # between uploads


class MetricsFile:
    """The file of one run.

    Args:
        path: of the file.
        step: lines after this step, of a life of the run that its checkpoints have forgotten, are cut off.
    """

    def __init__(self, path, step):
        self._path, self._remote = epath.Path(path), is_remote(path)
        kept = [json.dumps(line) for line in read_metrics(self._path) if line["step"] <= step]
        self._lines, self._changed, self._failed = kept, True, None
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._upload()
        self._thread = threading.Thread(target=self._run, name="crate-jax metrics", daemon=True)
        if self._remote:
            self._thread.start()

    def write(self, step, scalars):
        """Adds a line.

        Args:
            step: optimizer steps finished.
            scalars: name to number.

        Raises:
            UserError: it, or a line before it, could not be written.
        """
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

    def flush(self):
        """Until every line is stored.

        Raises:
            UserError: they cannot be.
        """
        if self._remote:
            self._upload()

    def close(self):
        """Stores what is left. Raises as `flush`."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()

    def _run(self):
        while not self._closed.wait(WRITE_SECONDS):
            try:
                self._upload()
                self._failed = None
            except UserError as error:
                self._failed = error.__cause__

    def _upload(self):
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
