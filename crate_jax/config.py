"""Configs: every leaf of the schema, overridden by leaf, checked before anything starts.

A config file is Python with a `get_config()` that takes `default_config()` and sets what differs. Nothing is silently
ignored: an unknown leaf, a wrong type or a value outside its range raises `UserError`. A config remembers which
leaves were given (set by its file or the command line, be it to the default), for fine-tuning inherits the others.
"""

import ast
import json
import numbers
import os
import re

import ml_collections

from crate_jax.config_files import config_of_file, find_config
from crate_jax.config_schema import LEAVES
from crate_jax.errors import UserError, nearest
from crate_jax.storage import local

LONGEST_TEXT = 4096  # letters: no path is longer, and no message should be
LENGTH = ("total_steps", "total_epochs")
IN_STEPS_OR_EPOCHS = (LENGTH, ("optimizer.warmup_steps", "optimizer.warmup_epochs"))
_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", tuple: "a list"}


class Config(ml_collections.ConfigDict):
    """A ConfigDict that remembers which of its leaves were set after it was made."""

    def __init__(self):
        object.__setattr__(self, "_given", set())
        super().__init__(type_safe=False)

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        self._given.add(key)

    def __setstate__(self, state):
        object.__setattr__(self, "_given", set())
        super().__setstate__(state)
        object.__setattr__(self, "_given", set(state["_given"]))


def default_config():
    """A config with every leaf at its default, none of them given."""
    return _nest({name: leaf.default for name, leaf in LEAVES.items()})


def _nest(flat, given_leaves=()):
    config = Config()
    for name, value in flat.items():
        node, (*parents, last) = config, name.split(".")
        for parent in parents:
            if parent not in node:
                node[parent] = Config()
            node = node[parent]
        node[last] = value
    for node in (config, *(value for value in config.values() if isinstance(value, Config))):
        node._given.clear()
    for name in given_leaves:
        parent, _, last = name.rpartition(".")
        (config[parent] if parent else config)._given.add(last)
    return config


def _leaves(config, above=""):
    """(dotted leaf, value, whether it was given) of each."""
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value, not isinstance(config, Config) or key in config._given


def flatten(config):
    """Dotted leaf to value."""
    return {name: value for name, value, _ in _leaves(config)}


def given(config):
    """The dotted leaves that a file or a command line gave, even a default; all of a plain ConfigDict."""
    return {name for name, _, was_given in _leaves(config) if was_given}


def load_config(name, overrides=()):
    """A checked config.

    Args:
        name: a file or an installed config, with an argument or without (`config_files`).
        overrides: pairs (dotted leaf, text or value), as `--config.a.b=v` gives them, or a dictionary.

    Returns:
        A `Config` with every leaf of the schema.

    Raises:
        UserError: see `check_leaf`; an unknown leaf.
    """
    path, argument = find_config(name)
    if path.suffix == ".json":
        return from_json(path.read_bytes(), overrides, path)
    config = config_of_file(path, argument)
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"--config={path}: get_config() returns {type(config).__name__}, not a ConfigDict")
    return override(config, overrides, source=str(path))


def override(config, overrides=(), *, source="the config"):
    """A checked copy of `config` with some leaves replaced.

    Args:
        config: a ConfigDict; leaves it lacks take their defaults.
        overrides: pairs (dotted leaf, text or value); these leaves count as given. A number of epochs replaces the
            config's number of steps.
        source: what an error calls the config.

    Raises:
        UserError: see `check_leaf`; an unknown leaf.
    """
    flat = {name: leaf.default for name, leaf in LEAVES.items()}
    for name, value in flatten(config).items():
        if name not in LEAVES:
            raise UserError(f"{source}: there is no setting {name}{nearest(name, LEAVES)}")
        flat[name] = value
    leaves, pairs = given(config), _pairs(overrides)
    for name, value in pairs:
        if name not in LEAVES:
            raise UserError(f"--config.{name}: there is no such setting{nearest(name, LEAVES)}")
        flat[name] = _parse(name, value) if isinstance(value, str) else value
        leaves.add(name)
    for steps, epochs in IN_STEPS_OR_EPOCHS:  # else the config's steps would win over epochs that a person gives
        if flat[epochs] is not None and epochs in dict(pairs) and steps not in dict(pairs):
            flat[steps] = None
    for name in ("data.data_dir", "init_from"):  # a stored config is read from other folders too
        if isinstance(path := flat[name], str) and path.strip() and "://" not in path:
            flat[name] = local(os.path.abspath(os.path.expanduser(path)))
    return _nest({name: check_leaf(name, value) for name, value in flat.items()}, leaves)


def _pairs(overrides):
    """The pairs of `override`'s argument.

    Raises:
        UserError: it holds something else.
    """
    pairs = overrides.items() if isinstance(overrides, dict) else overrides
    try:
        return [(str(name), value) for name, value in pairs]
    except (TypeError, ValueError):
        raise UserError(
            f'overrides={shown(overrides)}: give a dictionary, such as {{"seed": 1}}, or pairs of setting and value.'
        ) from None


def _parse(name, text):
    """The value that a command line's text stands for; the text itself where it is no Python literal."""
    leaf = LEAVES[name]
    if leaf.choices and text in leaf.choices:  # one of them is "none"
        return text
    if text in ("None", "none", "null") and (leaf.default is None or leaf.type is not str):
        return None
    if leaf.type is str or (leaf.items is str and text[:1] not in ("(", "[", "'", '"')):  # a class may be called 3
        return text
    if leaf.pair and re.fullmatch(r"\d{1,9}x\d{1,9}", text):
        return tuple(int(side) for side in text.split("x"))
    if leaf.type is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def check_leaf(name, value):
    """The value of one leaf, in the leaf's type; settings that must fit together are checked where they are used.

    Args:
        name: dotted leaf.
        value: what a file or a command line gives.

    Raises:
        UserError: another type, or a value outside the leaf's range or choices.
    """
    leaf = LEAVES[name]
    if value is None and leaf.default is None:
        return None
    if leaf.pair and isinstance(value, tuple | list):
        return _pair(name, leaf, value)
    if leaf.type in (int, float) and _is_number(value):
        value = _number(name, leaf, leaf.type, value)
    elif leaf.type is tuple and isinstance(value := _entries(leaf, value), tuple | list):
        value = _checked_entries(name, leaf, value)
    elif leaf.type not in (str, bool) or not isinstance(value, leaf.type):
        raise UserError(f"{name}={shown(value)} is not {_KINDS[leaf.type]} ({leaf.doc}).")
    for one in value if leaf.type is tuple else (value,):
        if leaf.choices and one not in leaf.choices:
            raise UserError(f"{name}={shown(one)} is none of {', '.join(map(str, leaf.choices))} ({leaf.doc}).")
    if leaf.type is str and not value.strip():
        raise UserError(f"{name} is empty; give it a value ({leaf.doc}).")
    if leaf.type is str and len(value) > LONGEST_TEXT:
        raise UserError(f"{name}={shown(value)}: give at most {LONGEST_TEXT} letters ({leaf.doc}).")
    return value


def _entries(leaf, value):
    """A lone number or text as a list: 0.5 as (0.5,), "cat,dog" as ("cat", "dog")."""
    if leaf.items is str and isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    return (value,) if leaf.items is float and _is_number(value) else value


def _checked_entries(name, leaf, value):
    kind = {float: "numbers", str: "texts"}.get(leaf.items)
    if kind and not all(_is_number(one) if leaf.items is float else isinstance(one, str) for one in value):
        raise UserError(f"{name}={shown(value)} is not a list of {kind} ({leaf.doc}).")
    if leaf.length and len(value) not in leaf.length:
        wanted = " or ".join(map(str, leaf.length))
        raise UserError(f"{name}={shown(value)} has {len(value)} entries, not {wanted} ({leaf.doc}).")
    if leaf.items is float:
        value = [_number(name, leaf, float, one) for one in value]
    if leaf.ascending and list(value) != sorted(value):
        raise UserError(f"{name}={tuple(value)} must not decrease ({leaf.doc}).")
    return tuple(value)


def _pair(name, leaf, value):
    """(height, width); one int where they are equal."""
    if len(value) != 2 or not all(map(_is_number, value)):
        raise UserError(
            f"{name}={shown(value)} is neither a whole number nor HEIGHTxWIDTH, such as 224x160 ({leaf.doc})."
        )
    height, width = (_number(name, leaf, int, side) for side in value)
    return height if height == width else (height, width)


def shown(value):
    """The value as an error shows it: its `repr`, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _number(name, leaf, kind, value):
    """An int or a float within the leaf's range."""
    if not leaf.admits(value):
        allowed = f"outside {leaf.range}" if leaf.range else "not a finite number"
        raise UserError(f"{name}={shown(value)} is {allowed} ({leaf.doc}).")
    if kind is int and value != int(value):
        raise UserError(f"{name}={shown(value)} is not a whole number ({leaf.doc}).")
    return kind(value)


def model_overrides(config):
    """The keyword arguments of `create_model` that a config holds."""
    return {name: value for name, value in config.model.items() if name != "name" and value is not None}


def to_json(config):
    """Text for `config.json`."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text, overrides=(), source="config.json"):
    """The config that `to_json` wrote; leaves that did not exist then take their defaults.

    Args:
        text: str or bytes.
        overrides: pairs (dotted leaf, text or value).
        source: of the text, for messages.

    Raises:
        UserError: not such a text.
    """
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise UserError(f"{source} is not JSON ({error}); restore it from the run's config file.") from error
    if not isinstance(tree, dict):
        raise UserError(f"{source} holds no settings; restore it from the run's config file.")
    return override(ml_collections.ConfigDict(tree, type_safe=False), overrides, source=str(source))


def check_resumable(old, new):
    """Lets a run go on with another config only where what it has done cannot change.

    Under a constant learning rate the length of a run can: no step depends on how many are to come.

    Raises:
        UserError: naming each leaf that differs and may not.
    """
    old, new = flatten(old), flatten(new)
    changed = [n for n, leaf in LEAVES.items() if not leaf.resume and old[n] != new[n]]
    if old["optimizer.schedule"] == new["optimizer.schedule"] == "constant":
        changed = [name for name in changed if name not in LENGTH]
    if not changed:
        return
    difference = "; ".join(f"{name}: {old[name]!r} began the run, now {new[name]!r}" for name in changed)
    if set(changed) <= set(LENGTH):
        another = "by --config.init_from=WORKDIR and a new --workdir"
        if new["model.num_classes"] is not None:  # a fine-tuning, which has no init_from
            another = "by fine-tuning it in a new --workdir"
        raise UserError(
            f"{difference}: every learning rate of a cosine depends on the run's length, so this run cannot be made "
            f"longer or shorter. Begin another from its parameters {another}; a run with optimizer.schedule=constant "
            f"can be extended."
        )
    raise UserError(
        f"the folder belongs to another config ({difference}). Take another --workdir, or the same settings."
    )
