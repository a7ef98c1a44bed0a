"""Libraries that only some commands need: extras of the package, imported where they are used."""

import importlib

from crate_jax.errors import UserError


def library(name, extra, needed_by):
    """An optional library.

    Args:
        name: of the module.
        extra: of setup.py that has it.
        needed_by: the command or option, for the message.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{needed_by} needs {name}: pip install 'crate-jax[{extra}]'") from error
