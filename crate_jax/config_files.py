"""Config files: found by path or by installed name, with an argument where one file serves several sizes or data sets.

    --config=experiments/mine.py          a file
    --config=quickstart                   a file that is installed with the package
    --config=imagenet:large               get_config("large") of the installed imagenet.py; also imagenet_large
    --config=workdirs/run/config.json     the config of a run

A file whose `get_config` takes an argument names the possible ones as a literal, `ARGUMENTS = ("small", "base")`.
"""

import ast
import inspect
import os
import pathlib
import runpy

from crate_jax.errors import UserError, first_line, nearest
from crate_jax.storage import exists

FOLDERS = ("", "configs", "sweeps")  # that may stand before an installed name


def installed_configs(kind="."):
    """Name to (path, argument) of the configs that are installed with the package, or stand in its checkout.

    Args:
        kind: "." or "sweeps".
    """
    here = pathlib.Path(__file__).resolve().parent
    for folder in (here / "configs", here.parent / "configs"):
        if (folder / "quickstart.py").is_file():
            paths = [path for path in sorted((folder / kind).glob("*.py")) if path.stem != "__init__"]
            with_argument = {f"{p.stem}_{one}": (p, one) for p in paths for one in arguments_of(p)}
            return with_argument | {path.stem: (path, None) for path in paths}
    return {}


def arguments_of(path):
    """The arguments that a config file says its `get_config` takes, without running it; () if it says none."""
    try:
        for node in ast.parse(path.read_bytes()).body:
            targets = node.targets if isinstance(node, ast.Assign) else ()
            if any(getattr(target, "id", None) == "ARGUMENTS" for target in targets):
                return tuple(ast.literal_eval(node.value))
    except (OSError, SyntaxError, ValueError, TypeError):  # unreadable, or no literal
        pass
    return ()


def _is_file(name):
    try:
        return os.path.isfile(os.path.expanduser(name))
    except (OSError, ValueError):  # a name that no file can have
        return False


def find_config(name, installed=None):
    """The file that `--config=NAME` means, and the argument of its `get_config`.

    Args:
        name: PATH, PATH:ARGUMENT, an installed NAME, or NAME:ARGUMENT.
        installed: see `installed_configs`, whose configs are the default.

    Returns:
        (pathlib.Path, argument or None).

    Raises:
        UserError: neither a file nor an installed config; an argument that the file does not know.
    """
    name, argument = str(name), None
    if not _is_file(name) and ":" in name:
        name, _, argument = name.rpartition(":")
    path, installed = pathlib.Path(os.path.expanduser(name)), installed or installed_configs()
    if not _is_file(name):
        exists(path, f"--config={name}")  # a closed folder is no missing file
        if path.stem not in installed or path.suffix not in ("", ".py") or path.parent.name not in FOLDERS:
            hint = f"; there is a file {name}.py: write --config={name}.py" if _is_file(f"{name}.py") else ""
            raise UserError(
                f"--config={name}: no such file, and no config of this name is installed"
                f"{hint or nearest(name, installed)}"
            )
        path, known = installed[path.stem]
        if argument is not None and known is not None:
            raise UserError(f"--config={name}:{argument}: {name} already is {path.stem}:{known}; leave one out.")
        argument = known if argument is None else argument
    known = arguments_of(path)
    if argument is not None and known and argument not in known:
        raise UserError(f"--config={name}:{argument}: {path.name} takes {', '.join(known)}{nearest(argument, known)}")
    return path, argument


def run_config_file(path):
    """The names that a config file defines.

    Raises:
        UserError: the file fails, with its own error and line.
    """
    try:
        return runpy.run_path(str(path))
    except UserError:
        raise
    # a person's file may raise anything: reported with its line, without our traceback
    except (Exception, SystemExit) as error:
        raise UserError(f"--config={path}: the file itself fails: {_where(error, path)}") from error


def config_of_file(path, argument=None):
    """What `get_config` of a file returns.

    Raises:
        UserError: the file fails, or has no `get_config`.
    """
    found = run_config_file(path)
    if "get_config" not in found:
        raise UserError(f"--config={path}: the file has no get_config()")
    get_config = found["get_config"]
    if argument is not None and callable(get_config) and not inspect.signature(get_config).parameters:
        raise UserError(f"--config={path}:{argument}: get_config() of this file takes no argument")
    return returned_by(path, "get_config", get_config, *(() if argument is None else (argument,)))


def returned_by(path, name, function, *arguments):
    """What a function that a config file defines returns.

    Raises:
        UserError: it is none, or fails, with its own error and line.
    """
    if not callable(function):
        raise UserError(f"--config={path}: {name} is {type(function).__name__}, not a function")
    try:
        return function(*arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"--config={path}: {name}() fails: {_where(error, path)}") from error


def _where(error, path):
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{type(error).__name__}: {first_line(error)}" + (f" (line {line})" if line else "")
