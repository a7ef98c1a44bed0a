"""A data set is found and listed once per command, not at every question about it.

Within `listed_once()` what was opened is remembered; outside nothing is, so that a notebook sees the pictures that were
added since.
"""

import contextlib
import contextvars

_remembered: contextvars.ContextVar[dict | None] = contextvars.ContextVar("remembered", default=None)


@contextlib.contextmanager
def listed_once():
    """A block, or by `@listed_once()` a function, in which `remembered` makes each thing once; blocks nest."""
    if _remembered.get() is not None:
        yield
        return
    token = _remembered.set({})
    try:
        yield
    finally:
        _remembered.reset(token)


def remembered(key, make):
    """What `make` returns; within `listed_once` what it returned for this key before."""
    held = _remembered.get()
    if held is None:
        return make()
    if key not in held:
        held[key] = make()
    return held[key]
