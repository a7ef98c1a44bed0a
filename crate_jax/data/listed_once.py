"""A data set is found and listed once per command, not at every question about it.

Within `listed_once()` what was opened is remembered; outside nothing is, so that a notebook sees the pictures that were
added since.
"""

import contextlib
import contextvars
import functools

_remembered: contextvars.ContextVar[dict] = contextvars.ContextVar("remembered")


@contextlib.contextmanager
def listed_once():
    """A block, or by `@listed_once()` a function, in which `remembered` makes each thing once; blocks nest."""
    token = _remembered.set(_remembered.get({}))
    try:
        yield
    finally:
        _remembered.reset(token)


def remembered(make):
    """A function whose results are kept within `listed_once`, by its arguments."""

    @functools.wraps(make)
    def call(*arguments):
        held, key = _remembered.get({}), (make, *arguments)
        if key not in held:
            held[key] = make(*arguments)
        return held[key]

    return call
