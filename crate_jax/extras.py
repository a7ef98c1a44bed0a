"""Libraries that only some commands need: extras of the package, imported where they are used."""

import importlib

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
        beside = f" and pip install --no-deps {beside}" if beside else ""
        raise UserError(f"{needed_by} needs {name}: pip install 'crate-jax[{extra}]'{beside}") from error
