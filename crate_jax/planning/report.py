"""A plan as numbers and as text."""

import collections

from crate_jax.planning.ahead_of_time import unsplit_parameters, what_to_change
from crate_jax.planning.roofline import model_flops, roofline

_GIB = 2.0**30


def as_numbers(plan, steps_per_epoch):
    """What `crate-jax compile --json` prints.

    Args:
        plan: a `planning.ahead_of_time.Plan`.
        steps_per_epoch: a number.

    Returns:
        A dictionary of plain values; what is not known of a program that does not fit is None.
    """
    program, topology = plan.program, plan.topology
    chips, config = program.mesh.size, program.config
    flops = model_flops(config, program.model, chips)
    by_kind = collections.defaultdict(lambda: {"count": 0, "bytes": 0.0})
    for one in plan.collectives:
        by_kind[one.kind]["count"] += one.count
        by_kind[one.kind]["bytes"] += one.count * one.bytes
    seconds = hours = None
    if plan.fits:
        limit = roofline(topology, flops=flops, hbm_bytes=plan.crossing_bytes, found=plan.collectives)
        seconds = {
            "compute": limit.compute,
            "memory": limit.memory,
            "interconnect": limit.interconnect,
            "bound": limit.bound,
            "at_least": limit.seconds,
        }
        hours = limit.seconds * program.total_steps / 3600
    unsplit = unsplit_parameters(program)
    return {
        "fits": plan.fits,
        "topology": topology.name,
        "slices": topology.slices,
        "chips": chips,
        "batch": config.batch_size,
        "mesh": dict(program.mesh.shape),
        "bytes_per_chip": {
            "arguments": plan.arguments,
            "temporaries": plan.temporaries,
            "peak": plan.peak,
            "capacity": plan.capacity,
        },
        "flops_per_step": flops,
        "hbm_bytes_per_step": plan.hbm_bytes,
        "hbm_crossing_bytes_per_step": plan.crossing_bytes,
        "collectives": dict(by_kind),
        "seconds_per_step": seconds,
        "total_steps": program.total_steps,
        "epochs": program.total_steps / steps_per_epoch if steps_per_epoch else None,
        "hours": hours,
        "unsplit_parameters": [name for name, _ in unsplit],
        "unsplit_bytes": sum(size for _, size in unsplit),
        "compile_seconds": plan.seconds,
    }


def shortage(plan):
    """The error message for a program that does not fit."""
    config, used, there = plan.program.config, plan.peak, plan.capacity
    return (
        f"{config.model.name} with batch_size={config.batch_size} does not fit on {plan.topology.name}: a chip would "
        f"need {used / _GIB:.2f} GiB of {there / _GIB:.2f}, {(used - there) / _GIB:.2f} too many; "
        f"try {what_to_change(plan)}."
    )


def size(count):
    """Bytes for a person."""
    for unit, name in ((_GIB, "GiB"), (2.0**20, "MiB")):
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count / 2**10:.2f} KiB"


def as_text(plan, numbers):
    """The same numbers for a person.

    Args:
        plan: a `Plan` that fits.
        numbers: from `as_numbers`.
    """
    memory, seconds, chip = numbers["bytes_per_chip"], numbers["seconds_per_step"], plan.topology.chip
    config = plan.program.config
    mesh = " x ".join(f"{axis} {size}" for axis, size in numbers["mesh"].items())
    slices = f", {numbers['slices']} slices" if numbers["slices"] > 1 else ""
    room = memory["capacity"] - memory["peak"]
    model = plan.program.model
    loops = ", a loop over layers once" if model.scan_layers or model.remat != "none" else ""
    where = f"{plan.topology.name}{slices}: {numbers['chips']} chips, {mesh}"
    lines = [
        f"{config.model.name}, batch {config.batch_size}, on {where}",
        f"compiled in {plan.seconds:.0f} s",
        "",
        "memory of one chip",
        f"  arguments    {size(memory['arguments']):>12}   parameters, optimizer, batch",
        f"  temporaries  {size(memory['temporaries']):>12}",
        f"  peak         {size(memory['peak']):>12}   of {size(memory['capacity'])}: {size(room)} left",
        "",
        "time per step of one chip, at the published peaks",
        f"  compute      {1e3 * seconds['compute']:9.2f} ms   {numbers['flops_per_step'] / 1e12:.2f} TFLOP at "
        f"{chip.flops / 1e12:.0f} TFLOP/s",
        f"  memory       {1e3 * seconds['memory']:9.2f} ms   {size(numbers['hbm_crossing_bytes_per_step'])} "
        f"across HBM at {chip.hbm_bandwidth / 1e9:.0f} GB/s: state, batch and temporaries, in and out",
        f"               {1e3 * numbers['hbm_bytes_per_step'] / chip.hbm_bandwidth:9.2f} ms   if all "
        f"{size(numbers['hbm_bytes_per_step'])} did that the compiler counts, on the chip or off it{loops}",
        f"  interconnect {1e3 * seconds['interconnect']:9.2f} ms",
        f"  bound by {seconds['bound']}: {1e3 * seconds['at_least']:.2f} ms a step at least, "
        f"{config.batch_size / seconds['at_least']:,.0f} images/s; a real step is longer",
        f"  {numbers['total_steps']:,} steps: {numbers['hours']:.2f} hours at least",
        "",
        "collectives of a step",
    ]
    for kind, found in sorted(numbers["collectives"].items()):
        lines.append(f"  {kind:<18} {found['count']:6}   {size(found['bytes']):>12}")
    if not numbers["collectives"]:
        lines.append("  none")
    if numbers["unsplit_parameters"]:
        names = numbers["unsplit_parameters"]
        lines += [
            "",
            f"on every chip though mesh.fsdp={numbers['mesh']['fsdp']} ({size(numbers['unsplit_bytes'])}):",
        ]
        lines += [f"  {name}" for name in names[:8]] + ([f"  and {len(names) - 8} more"] if len(names) > 8 else [])
    return "\n".join(lines)
