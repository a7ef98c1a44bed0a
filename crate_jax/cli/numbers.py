"""Types of numeric flags: a number outside its range is refused with the range, before anything is computed."""

import argparse

from crate_jax.errors import WORD, UserError, check_real, check_whole


def whole(low, high=WORD):
    """An argparse type: a whole number in [low, high]."""
    return lambda text: _parsed(text, int, check_whole, low, high)


def real(low, high):
    """An argparse type: a number in [low, high]."""
    return lambda text: _parsed(text, float, check_real, low, high)


def _parsed(text, kind, check, *limits):
    try:
        value = kind(text)
    except ValueError:
        value = text
    try:
        check("", value, *limits)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("=").rstrip(".")) from None
    return value
