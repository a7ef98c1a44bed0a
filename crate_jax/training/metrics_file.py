"""`metrics.jsonl`: one JSON object a line, a line a logged step. Floats read back bit-equal.

Object stores cannot be appended to, so there the text is kept and rewritten; on a local disk lines are appended.
"""

import json

from etils import epath


class MetricsFile:
    """The file of one run.

    Args:
        path: of the file.
        step: lines after this step, of a life of the run that its checkpoints have forgotten, are cut off.
    """

    def __init__(self, path, step):
        self._path = epath.Path(path)
        self._local = "://" not in str(path)
        kept = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
                except (ValueError, KeyError):
                    continue  # the line that a killed process was writing
        self._lines = kept
        self._rewrite()

    def _rewrite(self):
        text = "".join(line + "\n" for line in self._lines)
        if not self._local:
            self._path.write_text(text)
            return
        draft = self._path.parent / (self._path.name + ".draft")
        draft.write_text(text)
        draft.replace(self._path)

    def write(self, step, scalars):
        """Adds a line.

        Args:
            step: optimizer steps finished.
            scalars: name to number.
        """
        line = json.dumps({"step": int(step), **scalars})
        if self._local:
            with open(self._path, "a") as file:
                file.write(line + "\n")
        else:
            self._lines.append(line)
            self._rewrite()


def read_metrics(path):
    """Every line of a `metrics.jsonl` as a dictionary, in order; what a killed process left half-written is skipped."""
    lines = []
    for line in epath.Path(path).read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines
