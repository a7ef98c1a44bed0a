"""What a compiled step moves to and from memory, read from its text: in all, across HBM, and by purpose.

A TPU's compiler keeps whole activations in the chip's own memory (VMEM, space 1 in the text; 128 MiB on v5e and v6e)
and copies them there ahead of their use, a quarter at a time. Its cost analysis counts operands and results wherever
they lie, each such copy several times, and the body of a loop once; `counted` does the same, with loops. What must
cross HBM is less: reads and writes of space 0, each copy once. Layouts, spaces and copies are written as libtpu writes
them (0.0.42), which may change from version to version: hence a benchmark and no part of `crate-jax compile`.
"""

import collections
import dataclasses
import math
import re

from crate_jax.planning.collectives import COLLECTIVES, ELEMENT_BYTES, computations, run_counts

HBM = 0
ARRAY = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\](?:\{([0-9,]*)(?::T\(([0-9,]+)\))?)?")
PURPOSES = (  # the first pattern that is found in "operation name-in-the-network" tells
    ("copies to VMEM ahead of use, and back", r"^(copy-start|slice-start|custom-call:ConcatBitcast) "),
    ("collectives", rf"^({'|'.join(COLLECTIVES)})"),
    ("stacks that a scan over layers fills and reads", r"^broadcast |while/body/.*jit\(dynamic_(update_)?index_in_dim"),
    ("optimiser, norms of gradients and parameters", r"^(?!.*jvp\()"),
    ("LayerNorm", r"_norm/"),
    ("ISTA", r"/sparsification/"),
    ("MSSA between its products", r"/attention/.*(moved/.*pallas_call|->|softmax|swapaxes|/exp|/div|/reduce_max)"),
    ("products with U and W, and kernels that hold them", r"/attention/"),
    ("the decoder's map", r"(decoder_\d+|DecoderLayer)/(\w+/)*(dot_general|pallas_call|transpose)"),
    ("residual stream", r"(encoder|decoder)_\d+/|(Encoder|Decoder)Layer/"),
    ("pixels, masks, embedding, head, loss", r""),
)

_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "iota"}
_FREE |= {"after-all", "partition-id", "replica-id", "opt-barrier"}


def padded_bytes(text):
    """Bytes of an array's or a tuple's type as they lie in memory, the smallest axes rounded up to whole tiles."""

    def numbers(text):
        return [int(number) for number in text.split(",") if number]

    total = 0.0
    for kind, sizes, order, tile in ARRAY.findall(text):
        sizes = numbers(sizes)
        if tile and sizes:
            for axis, step in zip(numbers(order), reversed(numbers(tile)), strict=False):  # smallest axis first
                sizes[axis] = -(-sizes[axis] // step) * step
        total += ELEMENT_BYTES.get(kind, 0) * math.prod(sizes)
    return total


def operands_of(instruction):
    """Names of what an instruction reads, in order."""
    return re.findall(r"%([\w.\-]+)", re.split(r"\)(?:, |$)", instruction.rest, maxsplit=1)[0])


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What one instruction moves in a step.

    Attributes:
        what: operation and the name that it has in the network, for `PURPOSES`.
        runs: how often.
        counted: bytes of each run as the compiler's cost analysis counts.
        crossing: those that cross HBM.
    """

    what: str
    runs: int
    counted: float
    crossing: float


def transfers(text):
    """A list of `Transfer`, one for each instruction of a program that moves anything."""
    found, entry = computations(text)
    counts = run_counts(found, entry)
    fused = {name for body in found.values() for i in body if i.operation == "fusion" for name in i.called()}
    result = []
    for name, instructions in found.items():
        if not counts[name] or name in fused or _is_reducer(instructions):
            continue
        types = {instruction.name: instruction.type for instruction in instructions}
        for one in instructions:
            if one.operation in _FREE or one.operation.endswith("-done"):
                continue
            operands = [_parts(types.get(operand, "")) for operand in operands_of(one)]
            counted, crossing = _moved(one, operands, _parts(one.type), found)
            named = re.search(r'op_name="([^"]*)"', one.rest)
            target = re.search(r'custom_call_target="([^"]*)"', one.rest)
            what = f"{one.operation}{':' + target[1] if target else ''} {named[1] if named else ''}"
            result.append(Transfer(what, counts[name], counted, crossing))
    return result


def memory_bytes(text):
    """(counted with every loop's trips, counted with each body once, crossing HBM) in a step.

    The ratio of the first two corrects the compiler's own count, which has more detail and no loops.
    """
    moved = transfers(text)
    counted = sum(one.runs * one.counted for one in moved)
    return counted, sum(one.counted for one in moved), sum(one.runs * one.crossing for one in moved)


def by_purpose(text):
    """Purpose to (counted, crossing) of the forward pass and all else, and of the backward pass: two pairs."""
    table = {purpose: [[0.0, 0.0], [0.0, 0.0]] for purpose, _ in PURPOSES}
    for one in transfers(text):
        purpose = next(purpose for purpose, pattern in PURPOSES if re.search(pattern, one.what))
        pair = table[purpose]["transpose(" in one.what]
        pair[0] += one.runs * one.counted
        pair[1] += one.runs * one.crossing
    return table


def _is_reducer(instructions):
    """The scalar function inside a reduction; its cost is the reduction's."""
    return all(padded_bytes(instruction.type) <= 8 for instruction in instructions)


def _parts(text):
    """(memory space, bytes) of each array of a type."""
    found = []
    for match in ARRAY.finditer(text):
        layout = text[match.end() :].split("}", 1)[0] if "{" in match[0] else ""
        space = re.search(r"S\((\d+)\)", layout)
        found.append((int(space[1]) if space else HBM, padded_bytes(match[0])))
    return found


def _size(parts):
    return sum(size for _, size in parts)


def _across(parts):
    return sum(size for space, size in parts if space == HBM)


def _moved(instruction, operands, result, found):
    """(counted, crossing) bytes of one run."""
    operation = instruction.operation
    if operation in ("copy-start", "slice-start"):  # the result's type holds both ends
        ends = [part for part in result if part[0] <= 1]
        size = min(size for _, size in ends)
        counted = 3 * size if operation == "copy-start" else 2 * size
        return counted, size * sum(space == HBM for space, _ in ends)
    if "ConcatBitcast" in instruction.rest:
        return _size(result) + sum(map(_size, operands)), 0.0
    if operation in ("dynamic-slice", "slice", "gather"):
        size = _size(result)
        return 2 * size, size * (
            (operands[0][0][0] == HBM if operands and operands[0] else True) + (result[0][0] == HBM)
        )
    if operation in ("dynamic-update-slice", "scatter"):
        update = operands[1] if len(operands) > 1 else []
        return 2 * _size(update), _across(update) + _size(update) * (result[0][0] == HBM)
    if operation != "fusion":
        return _size(result) + sum(map(_size, operands)), _across(result) + sum(map(_across, operands))
    reads, writes = _fusion_traffic(found.get(next(iter(instruction.called()), None), []))
    counted = crossing = 0.0
    for place, parts in enumerate(operands):
        part = min(1.0, reads.get(place, _size(parts)) / (_size(parts) or 1.0))
        counted, crossing = counted + part * _size(parts), crossing + part * _across(parts)
    if len(writes) != len(result):  # a nested tuple: as it stands
        return counted + _size(result), crossing + _across(result)
    for (space, size), update in zip(result, writes, strict=True):
        counted += size if update is None else 2 * update
        crossing += (size if update is None else update) * (space == HBM)
    return counted, crossing


def _fusion_traffic(body):
    """What a fusion reads of the parameters that it only slices or writes into, by place; and of each result the bytes
    of the update, where it is one, else None.

    A stack that one layer's slice is written into is the same buffer in and out: only the slice moves.
    """
    by_name = {instruction.name: instruction for instruction in body}
    users_of = collections.defaultdict(list)
    for instruction in body:
        for name in operands_of(instruction):
            users_of[name].append(instruction)
    root = body[-1] if body else None
    if root is None:
        return {}, []
    parts = [by_name[name] for name in operands_of(root) if name in by_name] if root.operation == "tuple" else [root]
    writes, updated = [], set()
    for part in parts:
        while part.operation in ("bitcast", "copy") and operands_of(part) and operands_of(part)[0] in by_name:
            part = by_name[operands_of(part)[0]]
        if part.operation != "dynamic-update-slice":
            writes.append(None)
            continue
        stack, update = operands_of(part)[:2]
        while by_name[stack].operation in ("bitcast", "copy"):
            stack = operands_of(by_name[stack])[0]
        updated.add(stack)
        writes.append(padded_bytes(by_name[update].type))
    reads = {}
    for parameter in body:
        if parameter.operation != "parameter":
            continue
        users = users_of[parameter.name]
        place = int(re.match(r"[0-9]+", parameter.rest)[0])
        if parameter.name in updated:
            reads[place] = 0.0
        elif users and all(user.operation in ("dynamic-slice", "slice", "gather") for user in users):
            reads[place] = sum(padded_bytes(user.type) for user in users)
    return reads, writes
