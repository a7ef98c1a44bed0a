"""Libraries that only some commands need: extras of the package, imported where they are used."""

import importlib
import importlib.util

from crate_jax.errors import UserError


def library(name, extra, needed_by, *, beside=""):
    """An optional library.

    Args:
        name: of the module.
        extra: of setup.py that has it.
        needed_by: the command or option, for the message.
        beside: a package that is installed without what it requires, in addition.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _missing(name, extra, needed_by, beside) from error


def check_library(name, extra, needed_by, *, beside=""):
    """Raises as `library` where it is not installed, and does not import it, which may take seconds."""
    if importlib.util.find_spec(name) is None:
        raise _missing(name, extra, needed_by, beside)


def _missing(name, extra, needed_by, beside):
    beside = f" and pip install --no-deps {beside}" if beside else ""
    return UserError(f"{needed_by} needs {name}: pip install 'crate-jax[{extra}]'{beside}")
