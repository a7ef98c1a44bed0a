"""Cloud TPU chips and what their slices are called.

Peaks are the published ones (cloud.google.com/tpu/docs, pages v4, v5e, v5p, v6e), of one chip. Interconnect is one
direction of all links together: the pages' "all-reduce bandwidth per pod" divided by the pod's chips gives the same.
"""

import dataclasses
import math
import re

from crate_jax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Chip:
    """A generation.

    Attributes:
        name: as in v5e:4x4.
        flops: peak, bf16, a second.
        hbm_bytes: that a program may use, as libtpu names it when it refuses one that does not fit.
        hbm_bandwidth, ici_bandwidth, dcn_bandwidth: bytes a second to memory, to neighbours (one direction), and to
            other slices over the data-centre network.
        cores_in_name: v4-32 and v5p-32 count TensorCores, two a chip; v5litepod-32 and v6e-32 count chips.
        shapes: chips of a slice to its topology, for names that only give a number.
        options: what libtpu has to be told beside the name.
    """

    name: str
    flops: float
    hbm_bytes: float
    hbm_bandwidth: float
    ici_bandwidth: float
    dcn_bandwidth: float
    cores_in_name: bool
    shapes: dict
    options: dict = dataclasses.field(default_factory=dict)


_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBE = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8",
    1024: "8x8x16", 2048: "8x16x16", 4096: "16x16x16",
}  # fmt: skip
_GIB = 2.0**30

CHIPS = {
    "v4": Chip("v4", 275e12, 30.75 * _GIB, 1200e9, 268e9, 6.25e9, True, _CUBE, {"chip_config_name": "megacore"}),
    "v5e": Chip("v5e", 197e12, 15.75 * _GIB, 819e9, 200e9, 3.125e9, False, _FLAT),
    "v5p": Chip("v5p", 459e12, 95.74 * _GIB, 2765e9, 600e9, 6.25e9, True, _CUBE),
    "v6e": Chip("v6e", 918e12, 31.25 * _GIB, 1640e9, 400e9, 12.5e9, False, _FLAT),
}
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e"}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Slices of one chip.

    Attributes:
        chip: a `Chip`.
        name: as libtpu knows a slice, such as v5e:4x4.
        chips: of one slice.
        slices: how many.
    """

    chip: Chip
    name: str
    chips: int
    slices: int

    @property
    def options(self):
        """Keyword arguments of `topologies.get_topology_desc`."""
        options = dict(self.chip.options)
        if self.chips == 1:
            options["chips_per_host_bounds"] = (1, 1, 1)
        if self.slices > 1:
            options["num_slices"] = self.slices
        return options


def find_topology(name, slices=1):
    """What a name stands for.

    Args:
        name: "v5e:16x16", or Cloud TPU's own "v5litepod-256", "v6e-64", "v5p-128", "v4-32".
        slices: of that shape, joined by the data-centre network.

    Returns:
        A `Topology`.

    Raises:
        UserError: no such chip, or no such slice of it.
    """
    match = re.fullmatch(r"(\w+)(?::([1-9][0-9]{0,3}(?:x[1-9][0-9]{0,3})+)|-([0-9]{1,6}))", name)
    if not match:
        raise UserError(f"--topology={name} is neither CHIP:SHAPE (v5e:16x16) nor CHIP-NUMBER (v5litepod-256).")
    generation, shape, number = match.groups()
    generation = _ALIASES.get(generation, generation)
    if generation not in CHIPS:
        raise UserError(f"--topology={name}: there is no chip {generation}{nearest(generation, CHIPS)}")
    chip = CHIPS[generation]
    if slices < 1:
        raise UserError(f"--slices={slices} is below 1.")
    if number:
        count = int(number) // (2 if chip.cores_in_name else 1)
        if count not in chip.shapes or (chip.cores_in_name and int(number) % 2):
            known = ", ".join(f"{match[1]}-{n * (2 if chip.cores_in_name else 1)}" for n in chip.shapes)
            raise UserError(f"--topology={name}: there is no such slice; there are {known}.")
        shape = chip.shapes[count]
    sides = [int(side) for side in shape.split("x")]
    dimensions = len(next(iter(chip.shapes.values())).split("x"))
    if len(sides) != dimensions:
        some = ", ".join(f"{generation}:{known}" for known in list(chip.shapes.values())[1:6])
        raise UserError(f"--topology={name}: a slice of {generation} has {dimensions} dimensions, such as {some}.")
    return Topology(chip, f"{generation}:{shape}", math.prod(sides), slices)
