"""One setting of a config: its type, default, range and meaning."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One setting. Choices and bounds hold for each entry of a tuple."""

    default: Any  # its value where a config says nothing
    type: type  # int, float, bool, str or tuple
    doc: str  # a clause that says what it is, with its unit
    choices: tuple | None = None  # the values allowed, if they are few
    resume: bool = False  # a run may change it on resume; it must not change the result
    low: float | None = None  # inclusive bounds; None is no bound
    high: float | None = None
    above: float | None = None  # exclusive bounds
    below: float | None = None
    items: Any = None  # type of a tuple's entries: float, str, or None where the leaf's reader checks them
    length: tuple = ()  # how many entries a tuple may have; () is any number
    ascending: bool = False  # the entries of a tuple must not decrease
    pair: bool = False  # an int may also be a pair (height, width), written 224x160

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
