"""Config files: found by path or by installed name, with an argument where one file serves several sizes or data sets.

    --config=experiments/mine.py          a file
    --config=quickstart                   a file that is installed with the package
    --config=imagenet:large               get_config("large") of the installed imagenet.py; also imagenet_large
    --config=workdirs/run/config.json     the config of a run

A file whose `get_config` takes an argument names the possible ones as a literal, `ARGUMENTS = ("small", "base")`.
"""

import ast
import inspect
import pathlib
import runpy

from crate_jax.errors import UserError, nearest


def installed_configs():
    """Name to (path, argument) of the configs that are installed with the package, or stand in its checkout."""
    here = pathlib.Path(__file__).resolve().parent
    for folder in (here / "configs", here.parent / "configs"):
        if (folder / "quickstart.py").is_file():
            paths = [path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
            with_argument = {f"{p.stem}_{one}": (p, one) for p in paths for one in arguments_of(p)}
            return with_argument | {path.stem: (path, None) for path in paths}
    return {}


def arguments_of(path):
    """The arguments that a config file says its `get_config` takes, without running it; () if it says none."""
    try:
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else ()
            if any(getattr(target, "id", None) == "ARGUMENTS" for target in targets):
                return tuple(ast.literal_eval(node.value))
    except (OSError, SyntaxError, ValueError, TypeError):  # unreadable, or no literal
        pass
    return ()


def _is_file(name):
    try:
        return pathlib.Path(name).expanduser().is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def find_config(name):
    """The file that `--config=NAME` means, and the argument of its `get_config`.

    Args:
        name: PATH, PATH:ARGUMENT, an installed NAME, or NAME:ARGUMENT.

    Returns:
        (pathlib.Path, argument or None).

    Raises:
        UserError: neither a file nor an installed config; an argument that the file does not know.
    """
    name, argument = str(name), None
    if not _is_file(name) and ":" in name:
        name, _, argument = name.rpartition(":")
    path, installed = pathlib.Path(name).expanduser(), installed_configs()
    if not _is_file(name):
        if path.stem not in installed or path.suffix not in ("", ".py") or path.parent.name not in ("", "configs"):
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
    except Exception as error:  # a person's file may raise anything: reported with its line, without our traceback
        raise UserError(f"--config={path}: the file itself fails: {_where(error, path)}") from error


def config_of_file(path, argument=None):
    """What `get_config` of a file returns.

    Raises:
        UserError: the file fails, or has no `get_config`.
    """
    get_config = run_config_file(path).get("get_config")
    if get_config is None:
        raise UserError(f"--config={path}: the file has no get_config()")
    if argument is not None and not inspect.signature(get_config).parameters:
        raise UserError(f"--config={path}:{argument}: get_config() of this file takes no argument")
    try:
        return get_config() if argument is None else get_config(argument)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--config={path}: get_config() fails: {_where(error, path)}") from error


def _where(error, path):
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}" + (f" (line {line})" if line else "")
