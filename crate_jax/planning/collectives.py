"""The collectives of a compiled program, from its text (HLO): neither of XLA's own reports has them.

The body of a loop counts as often as it runs. TPU programs repeat one asynchronous collective in several fusions; its
channel tells.
"""

import collections
import dataclasses
import math
import re

ELEMENT_BYTES = dict.fromkeys(("s4", "u4"), 0.5) | dict.fromkeys(("pred", "s8", "u8"), 1)
ELEMENT_BYTES |= dict.fromkeys(("s16", "u16", "bf16", "f16"), 2) | dict.fromkeys(("s32", "u32", "f32"), 4)
ELEMENT_BYTES |= dict.fromkeys(("s64", "u64", "f64", "c64"), 8) | {"c128": 16}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BETWEEN_SLICES = "between-slices"  # what libtpu makes of the part that goes over the data-centre network

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
ARRAY = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_LISTED = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"([0-9]+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_GROUPS_LISTED = re.compile(r"replica_groups=\{(\{[0-9,]*\}(?:,\{[0-9,]*\})*)\}")
_GROUPS_IOTA = re.compile(r"replica_groups=\[([0-9,]+)\]<=\[([0-9,]+)\](?:T\(([0-9,]+)\))?")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: its name, type, operation, and everything after the bracket."""

    name: str
    type: str
    operation: str
    rest: str

    def called(self):
        """Names of the computations it runs; of branches, which differ in the mask ratio, the first stands for all."""
        listed = [name.strip().lstrip("%") for part in _LISTED.findall(self.rest) for name in part.split(",")]
        found = _CALLED.findall(self.rest) + [name for name in listed if name]
        return found[:1] if self.operation == "conditional" else found

    def trips(self, found):
        """How often a loop's body runs; 1 for anything else, and for a loop whose end is not known.

        A scan counts from 0 to a constant, and its condition compares with that; some backends write it down as well.
        """
        if self.operation != "while":
            return 1
        known = _TRIPS.search(self.rest)
        if known:
            return int(known[1])
        condition = found.get(_CONDITION.search(self.rest)[1], [])
        ends = [re.match(r"([0-9]+)\)", i.rest) for i in condition if i.operation == "constant" and "[]" in i.type]
        return max((int(end[1]) for end in ends if end), default=1)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of one chip.

    Attributes:
        kind: one of COLLECTIVES, or BETWEEN_SLICES.
        count: how often it runs in a step.
        bytes: of its result, each time.
        groups: lists of the devices of one slice that take part together; empty: all.
    """

    kind: str
    count: int
    bytes: float
    groups: tuple


def type_bytes(text):
    """Bytes of the numbers of an array's or a tuple's type, such as f32[64,96]{1,0:T(8,128)}."""
    return sum(
        ELEMENT_BYTES.get(kind, 0) * math.prod(int(size) for size in sizes.split(",") if size)
        for kind, sizes in ARRAY.findall(text)
    )


def computations(text):
    """Name to list of `Instruction`, and the name of the entry."""
    found, entry, current = {}, None, None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            current = found.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None:
            match = _LINE.match(line)
            if match:
                current.append(Instruction(*match.groups()))
    return found, entry


def run_counts(found, entry):
    """How often each computation runs in a step: loops multiply."""
    counts = collections.Counter({entry: 1})
    order, seen = [], set()

    def visit(name):
        if name in seen or name not in found:
            return
        seen.add(name)
        for instruction in found[name]:
            for called in instruction.called():
                visit(called)
        order.append(name)

    visit(entry)
    for name in reversed(order):  # callers before those they call
        for instruction in found[name]:
            for called in instruction.called():
                counts[called] += counts[name] * instruction.trips(found)
    return counts


def replica_groups(text):
    """Lists of device places, from either of the two ways in which XLA writes them; empty: all devices."""
    listed = _GROUPS_LISTED.search(text)
    if listed:
        return tuple(
            tuple(int(n) for n in group.split(",") if n) for group in re.findall(r"\{([0-9,]*)\}", listed[1]) if group
        )
    iota = _GROUPS_IOTA.search(text)
    if not iota:
        return ()
    import numpy as np

    shape, sizes, order = ([int(n) for n in part.split(",")] if part else None for part in iota.groups())
    places = np.arange(math.prod(sizes)).reshape(sizes)
    places = places if order is None else places.transpose(order)
    return tuple(map(tuple, places.reshape(shape).tolist()))


def collectives(text):
    """Every collective of a program, a list of `Collective`; one channel counts once however often it is written."""
    found, entry = computations(text)
    counts, by_channel, rest = run_counts(found, entry), {}, []
    for name, instructions in found.items():
        for instruction in instructions:
            kind = instruction.operation.removesuffix("-start")
            if counts[name] and kind == "send" and "megascale" in instruction.rest:
                sent = type_bytes(ARRAY.search(instruction.type)[0])
                rest.append(Collective(BETWEEN_SLICES, counts[name], sent, ()))
            if kind not in COLLECTIVES or not counts[name]:
                continue
            size = type_bytes(instruction.type)
            if instruction.operation.endswith("-start"):  # its type holds what goes in beside what comes out
                size = max(type_bytes(part) for part in re.findall(r"[a-z]+[0-9]*\[[0-9,]*\]", instruction.type))
            one = Collective(kind, counts[name], size, replica_groups(instruction.rest))
            channel = re.search(r"channel_id=([0-9]+)", instruction.rest)
            if channel is None:
                rest.append(one)
            elif channel[1] not in by_channel or by_channel[channel[1]].count < one.count:
                by_channel[channel[1]] = one
    return [*by_channel.values(), *rest]
