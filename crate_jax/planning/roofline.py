"""How long a step takes at least: arithmetic, memory traffic and interconnect, each at its published peak.

    step >= max(FLOPs / peak, bytes / HBM bandwidth, bytes sent / interconnect bandwidth)

(Williams, Waterman and Patterson 2009.) Real steps are longer: no peak is reached, and not everything overlaps.
Collectives are taken as rings: a chip sends 2 (n - 1) / n of an all-reduce's bytes, (n - 1) / n of an all-gather's
result, and so on; what goes between slices has the data-centre network's bandwidth.
"""

import dataclasses

from crate_jax.planning.collectives import BETWEEN_SLICES
from crate_jax.training.arithmetic import config_flops


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one step, at least.

    Attributes:
        compute, memory, interconnect: each alone.
    """

    compute: float
    memory: float
    interconnect: float

    @property
    def bound(self):
        """Name of the slowest."""
        return max(("compute", "memory", "interconnect"), key=lambda name: getattr(self, name))

    @property
    def seconds(self):
        """Of the slowest."""
        return getattr(self, self.bound)


def model_flops(config, model, chips):
    """FLOPs of one chip in one step, counted by hand, with what the backward pass computes once more.

    XLA's count will not do: it counts a scanned layer once.
    """
    return config.batch_size / chips * config_flops(config, model, repeated=True)


def bytes_sent(collective, chips, slices):
    """Bytes that one chip sends in one run of a collective, in a ring.

    Args:
        collective: a `Collective`.
        chips: of a slice; take part where no groups are named.
        slices: how many.
    """
    if collective.kind == "collective-permute":
        return collective.bytes
    if collective.kind == BETWEEN_SLICES:
        return 2 * (slices - 1) / slices * collective.bytes
    size = len(collective.groups[0]) if collective.groups else chips
    if collective.kind == "reduce-scatter":  # its result is a part of what goes in
        return (size - 1) * collective.bytes
    return (2 if collective.kind == "all-reduce" else 1) * (size - 1) / size * collective.bytes


def roofline(topology, *, flops, hbm_bytes, found):
    """The bound of a step.

    Args:
        topology: `planning.chips.Topology`.
        flops, hbm_bytes: of one chip.
        found: list of `Collective`.

    Returns:
        A `Roofline`.
    """
    chip, near, far = topology.chip, 0.0, 0.0
    for one in found:
        sent = one.count * bytes_sent(one, topology.chips, topology.slices)
        if one.kind == BETWEEN_SLICES:
            far += sent
        else:
            near += sent
    return Roofline(
        compute=flops / chip.flops,
        memory=hbm_bytes / chip.hbm_bandwidth,
        interconnect=near / chip.ici_bandwidth + far / chip.dcn_bandwidth,
    )
