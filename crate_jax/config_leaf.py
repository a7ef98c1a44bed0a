"""One setting of a config: its type, default, range and meaning."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One setting.

    Attributes:
        default: its value where a config says nothing.
        type: int, float, bool, str or tuple.
        doc: a clause that says what it is, with its unit.
        choices: the values allowed, of each entry of a tuple, if they are few.
        resume: True if a run may change it on resume; it must not change the result.
        low, high: inclusive bounds, of each entry of a tuple; None is no bound.
        above, below: exclusive bounds, likewise.
        items: type of a tuple's entries: float, str, or None where the leaf's reader checks them.
        length: how many entries a tuple may have; () is any number.
        ascending: True if the entries of a tuple must not decrease.
        pair: True if an int may also be a pair (height, width), written 224x160.
    """

    default: Any
    type: type
    doc: str
    choices: tuple | None = None
    resume: bool = False
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    items: Any = None
    length: tuple = ()
    ascending: bool = False
    pair: bool = False

    @property
    def range(self):
        """The allowed numbers as a person writes an interval, such as "[0, 1)" or ">= 1"; "" for no bounds."""
        bottom = self.above if self.low is None else self.low
        top = self.below if self.high is None else self.high
        if top is None:
            return "" if bottom is None else f"{'>' if self.low is None else '>='} {bottom}"
        return f"{'(' if self.low is None else '['}{bottom}, {top}{')' if self.high is None else ']'}"

    def admits(self, number):
        """Whether a number is finite and lies within the bounds; exact for integers of any size."""
        finite = abs(number) != float("inf") and number == number
        return finite and not (
            (self.low is not None and number < self.low)
            or (self.high is not None and number > self.high)
            or (self.above is not None and number <= self.above)
            or (self.below is not None and number >= self.below)
        )
