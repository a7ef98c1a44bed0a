"""What a sweep file says. It is a config file with two more names:

    def get_config(): ...                           the base
    def get_hyper(): return product(leaf("model.lambda_", [0.1, 0.5]), leaf("seed", range(3)))
    EVALUATE = ("probe", "knn")                     commands after `pretrain`, if wanted

`get_hyper` returns a list of dictionaries from dotted leaf to value, made by `leaf`, `product`, `zipped` and `chain`,
or by hand. A key "name" names a point; else its name is made of its own leaves, so it stays when the sweep grows.
"""

import dataclasses
import hashlib
import itertools
import re

import numpy as np

from crate_jax.config import flatten, load_config, shown
from crate_jax.config_files import find_config, installed_configs, returned_by, run_config_file
from crate_jax.config_schema import LEAVES
from crate_jax.errors import UserError, nearest

EVALUATIONS = ("probe", "knn", "reconstruct", "analyze", "finetune")
LONGEST_NAME = 100


def leaf(name, values):
    """Points that differ in one leaf."""
    return [{name: value} for value in values]


def product(*lists):
    """Every combination of one point of each list."""
    return [_merged(points) for points in itertools.product(*lists)]


def zipped(*lists):
    """The first points of all lists together, the second ones, and so on.

    Raises:
        UserError: lists of different length.
    """
    if len({len(points) for points in lists}) > 1:
        raise UserError(f"zipped: lists of {', '.join(str(len(points)) for points in lists)} points do not pair up.")
    return [_merged(points) for points in zip(*lists, strict=True)]


def chain(*lists):
    """The points of one list after those of another."""
    return [dict(point) for points in lists for point in points]


def _merged(points):
    merged = {}
    for point in points:
        both = (set(merged) & set(point)) - {"name"}
        if both:
            raise UserError(f"get_hyper: {', '.join(sorted(both))} is set twice in one point.")
        name = "+".join(part["name"] for part in (merged, point) if "name" in part)
        merged = merged | point | ({"name": name} if name else {})
    return merged


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        name: of its folder.
        overrides: dictionary from dotted leaf to value.
        fingerprint: of the resolved config; editing get_config() changes it.
    """

    name: str
    overrides: dict
    fingerprint: str = ""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
        config: the absolute path of the file, with `:ARGUMENT` if one was given.
        points: list of `Point`.
        evaluate: commands after `pretrain`.
    """

    config: str
    points: list
    evaluate: tuple


def load_sweep(name):
    """Reads a sweep file and checks the config of every point.

    Args:
        name: as of `config_files.find_config`, of a file or an installed sweep.

    Raises:
        UserError: no such file, no get_hyper, a leaf or value that is wrong, two points of one name.
    """
    path, argument = find_config(name, installed_configs() | installed_configs("sweeps"))
    config = str(path.resolve()) + (f":{argument}" if argument is not None else "")
    found = run_config_file(path)
    if "get_hyper" not in found:
        raise UserError(f"--config={path}: the file has no get_hyper(), so it is no sweep; use pretrain.")
    # inside the call, for a generator runs here only
    hyper = returned_by(path, "get_hyper", lambda: list(found["get_hyper"]()))
    if not hyper:
        raise UserError(f"--config={path}: get_hyper() returns no points.")
    strange = [one for one in hyper if not isinstance(one, dict) or not all(isinstance(key, str) for key in one)]
    if strange:
        raise UserError(
            f"--config={path}: get_hyper() returns {shown(strange[0])} among its points; a point is a dictionary from "
            "leaf to value."
        )
    evaluate = found.get("EVALUATE", ())
    evaluate = (evaluate,) if isinstance(evaluate, str) else tuple(evaluate or ())
    for command in evaluate:
        if not isinstance(command, str) or command.partition(" ")[0] not in EVALUATIONS:
            raise UserError(f"--config={path}: EVALUATE has {command!r}{nearest(command, EVALUATIONS)}")
    points = []
    for one in hyper:
        overrides = {key: _plain(value) for key, value in one.items() if key != "name"}
        name = safe(one["name"]) if "name" in one else name_of(overrides)
        points.append(Point(name, overrides, fingerprint(load_config(config, overrides.items()))))
    names = [point.name for point in points]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"--config={path}: several points are called {', '.join(twice)}.")
    return Sweep(config, points, evaluate)


def _plain(value):
    """A value without NumPy's numbers and arrays, as np.linspace makes them, which are no JSON and no flag."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, tuple | list) else value


def fingerprint(config):
    """Hexadecimal digits of every leaf of a config that changes a result."""
    leaves = {k: v for k, v in flatten(config).items() if not LEAVES[k].resume or k == "data.validation_split"}
    return hashlib.sha256(repr(sorted(leaves.items())).encode()).hexdigest()[:16]


def safe(text):
    """A name that any file system, scheduler and shell takes as it is."""
    return re.sub(r"[^A-Za-z0-9._=+-]+|^\.+|\.+$", "_", str(text)).strip("_") or "point"


def name_of(overrides):
    """The name of a point: `lambda=0.5,seed=1` without characters that need quoting, cut short by a hash."""
    if not overrides:
        return "base"
    last = [key.rpartition(".")[2] for key in overrides]
    words = []
    for key, value in overrides.items():
        short = key.rpartition(".")[2]
        words.append(f"{(short if last.count(short) == 1 else key).strip('_')}={safe(value)}")
    name = "+".join(words)
    if len(name) > LONGEST_NAME:
        name = name[: LONGEST_NAME - 9] + "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return name


def as_flags(overrides):
    """`--config.a.b=v` for each override, as `config.override` reads it back."""
    return [f"--config.{key}={value}" for key, value in overrides.items()]
