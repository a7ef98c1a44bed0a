"""TFDS's slicing syntax for sources that TFDS does not know: `train[10%:20%]`, `train[:100]`, `train+test`."""

import re

from crate_jax.errors import UserError

SLICE = re.compile(r"^(?P<split>(?!\.+(?:\[|$))[\w.\-]+)(\[(?P<first>-?\d+%?)?:(?P<last>-?\d+%?)?\])?$")


def parsed(split):
    """The parts of a split.

    Args:
        split: such as "train[:90%]+test".

    Returns:
        A list of (name, first, last); the bounds are strings such as "10%" or "-5", or None.

    Raises:
        UserError: it is not of this form.
    """
    parts = [SLICE.match(part.strip()) for part in split.split("+")]
    if None in parts:
        raise UserError(f"split {split!r} is not understood; write it like train, train[:90%] or train[10:20]+test.")
    return [(part["split"], part["first"], part["last"]) for part in parts]


def bounds(first, last, count):
    """The range that two bounds name, clipped to what there is.

    Args:
        first, last: strings such as "10%", "-5", or None; as TFDS has it, "%" of one is the unit of both.
        count: examples of the whole split.

    Returns:
        start, stop with 0 <= start <= stop <= count; percentages are rounded to the nearest example.
    """

    is_percent = any(bound is not None and bound.endswith("%") for bound in (first, last))

    def place(bound, default):
        if bound is None:
            return default
        number = round(int(bound.rstrip("%")) * count / 100) if is_percent else int(bound)
        return min(max(number + count if number < 0 else number, 0), count)

    start, stop = place(first, 0), place(last, count)
    return start, max(start, stop)
