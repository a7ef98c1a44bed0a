"""The one exception that the command line prints without a traceback.

A user's mistake (a misspelt key, a missing folder, a width that no head count divides) is raised as `UserError` where
it is noticed. The command line prints it without a traceback and ends with exit code 1; in Python it is an ordinary
exception. Any other exception is a fault of this package, and keeps its traceback.
"""

import difflib
import functools
import logging
import math
import numbers
import os
import re
import signal

LONGEST_LIST = 900  # characters; a longer list of known names is no help
FLAG = re.compile(r"^--(?=[a-z])")
WORD = 2**31 - 1
LOST_HOST = 175  # exit code of a run that lost a host or its storage, or stalled: launchers start it again
_warned: set = set()


class UserError(Exception):
    """What is wrong, where, and what to do."""


def names_arguments(function):
    """A function of the Python API, whose errors begin with an argument (`images=`), not with a flag (`--images=`)."""

    @functools.wraps(function)
    def call(*arguments, **options):
        try:
            return function(*arguments, **options)
        except UserError as error:
            error.args = (FLAG.sub("", str(error)), *error.args[1:])
            raise

    return call


def check_whole(name, value, low, high=WORD):
    """Refuses what is no whole number in [low, high]; `name` is the flag or argument, for the message."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or not low <= value <= high:
        raise UserError(f"{name}={_short(value)}: give a whole number from {low} to {high}.")


def check_real(name, value, low, high):
    """Refuses what is no number in [low, high]; `name` as of `check_whole`."""
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_real or not low <= value <= high:
        raise UserError(f"{name}={_short(value)}: give a number from {low:g} to {high:g}.")


def check_path(name, value):
    """Refuses what is no path; `name` as of `check_whole`."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value).strip():
        raise UserError(f"{name}={_short(value)}: give a path, a text or a pathlib.Path.")


def check_flag(name, value):
    """Refuses what is neither True nor False; `name` as of `check_whole`."""
    if not isinstance(value, bool):
        raise UserError(f"{name}={_short(value)}: give True or False.")


def _short(value):
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def warn_once(message):
    """Logs a warning, once in a process: a command opens its data several times."""
    if message not in _warned:
        _warned.add(message)
        logging.warning("%s", message)


def first_line(error):
    """The first line of what an exception says, or what kind it is."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(name, known, limit=3):
    """A clause that names the known names closest to `name`.

    Args:
        name: what was given.
        known: the names there are.
        limit: how many to offer at most.

    Returns:
        `"; did you mean a, b?"`, or where nothing is close all of `known`, if they are short.

    >>> nearest("learning_rat", ["learning_rate", "seed"])
    '; did you mean learning_rate?'
    """
    known = [str(k) for k in known]
    close = difflib.get_close_matches(str(name), known, n=limit, cutoff=0.6)
    if not close:  # a.b.colour is closest to x.colour: what stands before the dot does not count
        last = str(name).rpartition(".")[2]
        close = [k for k in known if k.rpartition(".")[2] == last][:limit]
    if close:
        return f"; did you mean {', '.join(close)}?"
    names = ", ".join(sorted(known))
    return f"; known: {names}" if len(names) <= LONGEST_LIST else "; no known name is close to it."


def how_ended(code):
    """The end of a child process in words, such as "was killed by signal 11 (SIGSEGV)".

    Args:
        code: its exit code; minus the number of the signal that ended it.
    """
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else "unknown"
    memory = ", often for want of memory" if -code == signal.SIGKILL else ""  # the kernel's or a container's limit
    return f"was killed by signal {-code} ({name}){memory}"
