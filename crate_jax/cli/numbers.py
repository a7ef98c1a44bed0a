"""Types of numeric flags: a number outside its range is refused with the range, before anything is computed."""

import argparse
import math

WORD = 2**31 - 1


def whole(low, high=WORD):
    """An argparse type: a whole number in [low, high]."""

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from {low} to {high}")
        return value

    return parse


def real(low, high, *, positive=False):
    """An argparse type: a number in [low, high], with `positive` also above 0."""

    def parse(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (positive and value <= 0):
            above = "above 0, " if positive else ""
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number {above}from {low:g} to {high:g}")
        return value

    return parse
