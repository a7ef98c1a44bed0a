"""What an evaluation returns, and the files made of it: KIND.json and figures/*.png, which say what they are of.

Every file has `data` (name, split, fingerprint, examples), `source` (workdir or file, step, identity of the parameters)
and `version`. Results on another data set than the run's own have its name (`probe-cifar10.json`).
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath

from crate_jax.errors import UserError, check_path, warn_once
from crate_jax.figure_files import save_figure
from crate_jax.storage import write_json

SHOWN = 6  # numbers in a repr


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """The outcome of an evaluation.

    Attributes:
        kind: probe, knn, reconstruction, finetune, few_labels, analysis.
        numbers: what KIND.json holds; each is an attribute too (`result.accuracy`).
        tables: name to a list of dictionaries, one a row, as `pandas.DataFrame` takes them.
        figures: name to a function that draws it.
    """

    kind: str
    numbers: dict
    tables: dict = dataclasses.field(default_factory=dict)
    figures: Mapping[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)

    def __getattr__(self, name):
        if name.startswith("_") or name not in self.__dict__.get("numbers", {}):
            raise AttributeError(f"a {self.__dict__.get('kind')} result has no {name!r}")
        return self.numbers[name]

    def __dir__(self):
        return [*super().__dir__(), *self.numbers]

    def __repr__(self):
        scalars = [(k, v) for k, v in self.numbers.items() if isinstance(v, int | float | str) and k != "version"]
        shown = [
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in scalars[:SHOWN]
        ]
        return f"<{self.kind}: {', '.join(shown)}>"

    def plot(self, name=None):
        """A figure as a matplotlib `Figure`, which a notebook shows; `name` is a key of `figures`, None the first.

        Raises:
            UserError: there is no such figure.
        """
        name = next(iter(self.figures), None) if name is None else name
        if not isinstance(name, str) or name not in self.figures:
            raise UserError(
                f"this {self.kind} result has no figure {name}; it has {', '.join(self.figures) or 'none'}."
            )
        return self.figures[name]()

    def save(self, folder, *, suffix=""):
        """Writes KIND.json, whose path it returns, and figures/*.png into a folder (gs:// too); the first process does.

        `suffix` is that of every name, before the ending.
        """
        check_path("folder", folder)
        folder = epath.Path(os.path.expanduser(folder))
        file = folder / f"{self.kind}{suffix}.json"
        if jax.process_index() == 0:
            write_json(file, self.numbers)
            for name, draw in self.figures.items():
                save_figure(draw(), folder / "figures" / f"{name}{suffix}.png")
        return file


def read_result(path):
    """What a result file holds, a dictionary; None where there is none, or with a warning a damaged one."""
    path = epath.Path(path)
    try:
        found = json.loads(path.read_bytes()) if path.exists() else None
    except ValueError:
        found = ()
    if found is None or isinstance(found, dict):
        return found
    warn_once(f"{path} is damaged, and is left out; measure again.")
    return None


def identity_in(found):
    """The identity of the parameters that a result is of; None where it does not say."""
    source = (found or {}).get("source")
    return source.get("parameters") if isinstance(source, dict) else None


def data_set_in(found):
    """(name, split) of the data that a result is on; None where it does not say."""
    data = (found or {}).get("data")
    return (data.get("name"), data.get("split")) if isinstance(data, dict) else None


def shown_as(value, form):
    """A value as text: `form` is "%" (per cent), "pp" (percentage points) or a format specification."""
    if value is None or not math.isfinite(value):
        return "-"
    if form in ("%", "pp"):
        return f"{100 * value:+.1f} {form}"
    return format(value, form)
