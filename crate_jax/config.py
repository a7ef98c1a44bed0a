"""Configs: found by file or by installed name, overridden by leaf, checked against the schema before anything starts.

A config file is Python with a `get_config()` that takes `default_config()` and sets what differs. Nothing is silently
ignored: an unknown leaf, a wrong type or an impossible value ends in one sentence.
"""

import ast
import json
import math
import pathlib
import runpy

import ml_collections

from crate_jax.config_schema import LEAVES
from crate_jax.errors import UserError, nearest


def default_config():
    """A config with every leaf at its default."""
    return _nest({name: leaf.default for name, leaf in LEAVES.items()})


def _nest(flat):
    config = ml_collections.ConfigDict(type_safe=False, convert_dict=True)
    for name, value in flat.items():
        node = config
        *parents, last = name.split(".")
        for parent in parents:
            if parent not in node:
                node[parent] = ml_collections.ConfigDict(type_safe=False)
            node = node[parent]
        node[last] = value
    return config


def flatten(config):
    """Dotted leaf to value."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat.update({f"{key}.{inner}": x for inner, x in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def installed_configs():
    """Name to path of the configs that came with the package (or stand in the checkout it runs from)."""
    here = pathlib.Path(__file__).resolve().parent
    for folder in (here / "configs", here.parent / "configs"):
        if (folder / "quickstart.py").is_file():
            return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}
    return {}


def find_config(name):
    """The file that `--config=NAME` means.

    Raises:
        UserError: neither a file nor an installed config.
    """
    path = pathlib.Path(name)
    if path.is_file():
        return path
    installed = installed_configs()
    if path.stem in installed and path.suffix in ("", ".py") and path.parent.name in ("", "configs"):
        return installed[path.stem]
    raise UserError(f"--config={name}: no such file, and no config of this name is installed{nearest(name, installed)}")


def run_config_file(path):
    """The names that a config file defines.

    Raises:
        UserError: the file fails, with its own error and line.
    """
    try:
        return runpy.run_path(str(path))
    except UserError:
        raise
    except Exception as error:  # whatever a person's file raises is told, not traced
        raise UserError(f"--config={path}: the file itself fails: {_where(error, path)}") from error


def _where(error, path):
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}" + (f" (line {line})" if line else "")


def load_config(name, overrides=()):
    """A checked config.

    Args:
        name: a file, or the name of an installed config.
        overrides: pairs (dotted leaf, text or value), as `--config.a.b=v` gives them.

    Returns:
        An `ml_collections.ConfigDict` with every leaf of the schema.

    Raises:
        UserError: see `check_config`.
    """
    path = find_config(name)
    get_config = run_config_file(path).get("get_config")
    if get_config is None:
        raise UserError(f"--config={path}: the file has no get_config()")
    try:
        config = get_config()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--config={path}: get_config() fails: {_where(error, path)}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"--config={path}: get_config() returns {type(config).__name__}, not a ConfigDict")
    return override(config, overrides, source=str(path))


def override(config, overrides=(), *, source="the config"):
    """A checked copy of `config` with some leaves replaced.

    Args:
        config: a ConfigDict; leaves it lacks take their defaults.
        overrides: pairs (dotted leaf, text or value).
        source: what an error calls the config.

    Raises:
        UserError: see `check_config`.
    """
    flat = {name: leaf.default for name, leaf in LEAVES.items()}
    for name, value in flatten(config).items():
        if name not in LEAVES:
            raise UserError(f"{source}: there is no setting {name}{nearest(name, LEAVES)}")
        flat[name] = value
    for name, value in overrides:
        if name not in LEAVES:
            raise UserError(f"--config.{name}: there is no such setting{nearest(name, LEAVES)}")
        flat[name] = _parse(name, value) if isinstance(value, str) else value
    config = _nest({name: _coerce(name, value) for name, value in flat.items()})
    check_config(config)
    return config


def _parse(name, text):
    leaf = LEAVES[name]
    if text in ("None", "none", "null") and (leaf.default is None or leaf.type is not str):
        return None
    if leaf.type is str:
        return text
    if leaf.type is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _coerce(name, value):
    """The value in its leaf's type; refuses what is not of it."""
    leaf = LEAVES[name]
    if value is None:
        if leaf.default is None:
            return None
    elif leaf.type is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif leaf.type is int and isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
        return int(value)
    elif leaf.type is tuple and isinstance(value, list | tuple):
        return tuple(value)
    elif leaf.type in (str, bool) and isinstance(value, leaf.type):
        return value
    kind = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", tuple: "a list"}[leaf.type]
    raise UserError(f"{name}={value!r} is not {kind} ({leaf.doc}).")


def check_config(config):
    """Checks every leaf for itself; what must fit together is checked where it is used.

    Raises:
        UserError: a value outside its bounds or choices.
    """
    flat = flatten(config)
    for name, leaf in LEAVES.items():
        value = flat[name]
        if value is None:
            continue
        if leaf.choices and value not in leaf.choices:
            raise UserError(f"{name}={value!r} is none of {', '.join(leaf.choices)}.")
        if leaf.type is float and not math.isfinite(value):
            raise UserError(f"{name}={value} is not a finite number.")
        if leaf.low is not None and value < leaf.low:
            raise UserError(f"{name}={value} is below {leaf.low} ({leaf.doc}).")
        if leaf.high is not None and value > leaf.high:
            raise UserError(f"{name}={value} is above {leaf.high} ({leaf.doc}).")


def model_overrides(config):
    """The keyword arguments of `create_model` that a config holds."""
    return {name: value for name, value in config.model.items() if name != "name" and value is not None}


def to_json(config):
    """Text for `config.json`."""
    return json.dumps(_plain(config), indent=2) + "\n"


def _plain(node):
    return {k: _plain(v) if isinstance(v, ml_collections.ConfigDict) else v for k, v in node.items()}


def from_json(text, overrides=()):
    """The config that `to_json` wrote; leaves that did not exist then take their defaults.

    Raises:
        UserError: not such a text.
    """
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise UserError(f"config.json is not JSON ({error}); restore it from the run's config file.") from error
    return override(ml_collections.ConfigDict(tree, type_safe=False), overrides, source="config.json")


def check_resumable(old, new):
    """Lets a run go on with another config only where its result cannot change.

    Raises:
        UserError: naming each leaf that differs and may not.
    """
    old, new = flatten(old), flatten(new)
    changed = [n for n, leaf in LEAVES.items() if not leaf.resume and old[n] != new[n]]
    if changed:
        difference = "; ".join(f"{name}: {old[name]!r} began the run, now {new[name]!r}" for name in changed)
        raise UserError(
            f"the workdir belongs to another config ({difference}). Take another --workdir, or the same settings."
        )
