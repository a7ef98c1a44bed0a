"""Which array is sharded over which mesh axis: one table of rules for the logical axis names of `models.layout`."""

import math

import flax.linen as nn
import jax
from jax.sharding import NamedSharding, PartitionSpec

from crate_jax.distributed.mesh import AXES
from crate_jax.errors import UserError

RULES = (
    ("images", ("data", "fsdp")),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("atoms", "tensor"),
    ("hidden", "tensor"),
    ("pixels", None),
    ("classes", None),
    ("layers", None),
)

BATCH = PartitionSpec(("data", "fsdp"))


def rules_for(settings):
    """The rules of a config, as `flax.linen.logical_axis_rules` takes them.

    Args:
        settings: the config's `mesh`; its `rules` replace those of this file that have the same logical name.

    Raises:
        UserError: a rule about something that does not exist.
    """
    rules, replaced = dict(RULES), set()
    for rule in settings.rules:
        name, where = rule if isinstance(rule, list | tuple) and len(rule) == 2 else (rule, ())
        axes = tuple(where) if isinstance(where, list | tuple) else (where,)
        known = isinstance(name, str) and name in rules and axes and all(axis in (*AXES, None) for axis in axes)
        if not known or len(set(axes)) < len(axes) or name in replaced:
            raise UserError(
                f"mesh.rules: {rule!r} is not (logical axis, mesh axis), each at most once; logical axes are "
                f"{', '.join(rules)}, mesh axes {', '.join(AXES)}, several of these, or None."
            )
        rules[name], replaced = axes[0] if len(axes) == 1 else axes, replaced | {name}
    return tuple(rules.items())


def mesh_axes(entry):
    """The mesh axes that a rule or an entry of a `PartitionSpec` names, as a tuple: one, several or none."""
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


def _ways(mesh, axes):
    return math.prod(mesh.shape[axis] for axis in axes)


def parameter_shardings(boxed, mesh, rules=RULES):
    """A sharding for each parameter.

    Args:
        boxed: `models.registry.boxed_shapes`, or any tree with logical names.
        mesh: from `make_mesh`.
        rules: from `rules_for`.

    Returns:
        A tree of `NamedSharding` with the parameters' structure.

    Raises:
        UserError: an axis of a parameter is not divisible by the mesh axis it is sharded over; a parameter carries no
            logical names, or one that no rule covers.
    """
    known = dict(rules)

    def sharding(path, leaf):
        name = "/".join(key.key for key in path if hasattr(key, "key"))
        if not isinstance(leaf, nn.LogicallyPartitioned):
            raise UserError(f"the parameter {name} carries no logical axes, so no rule of the mesh covers it.")
        for axis in leaf.names:
            if axis is not None and axis not in known:
                raise UserError(f"the parameter {name} has a logical axis {axis!r}, which no rule of the mesh covers.")
        spec = nn.logical_to_mesh_axes(leaf.names, rules)
        for size, axes in zip(leaf.value.shape, map(mesh_axes, spec), strict=True):
            if size % (ways := _ways(mesh, axes)):
                over = " * ".join(f"mesh.{axis}" for axis in axes)
                raise UserError(
                    f"{over}={ways} does not divide an axis of {size} of the parameter {name}; choose a mesh axis that "
                    f"does."
                )
        return NamedSharding(mesh, spec)

    def is_box(leaf):
        return isinstance(leaf, nn.LogicallyPartitioned)

    return jax.tree_util.tree_map_with_path(sharding, boxed, is_leaf=is_box)


def batch_sharding(mesh):
    """Images sharded over the mesh axes data and fsdp."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh):
    """Replicated: the same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_ways(mesh, rules=RULES):
    """What divides a micro-batch: the ways that images are sharded as they are read, and by the rules in the step."""
    return math.lcm(_ways(mesh, ("data", "fsdp")), _ways(mesh, mesh_axes(dict(rules)["images"])))


def fsdp_ways(boxed, most, rules=RULES):
    """How many ways the mesh axis fsdp can shard these parameters.

    Args:
        boxed: as of `parameter_shardings`.
        most: a divisor of this, at most.
        rules: from `rules_for`.

    Returns:
        The largest divisor of `most` that divides every axis whose rule names fsdp; 1 where none does.
    """
    known, boxes = dict(rules), jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))
    pairs = [pair for box in boxes for pair in zip(box.names, box.value.shape, strict=True)]
    sizes = [size for name, size in pairs if "fsdp" in mesh_axes(known.get(name))]
    return math.gcd(most, *sizes) if sizes else 1


def check_batch(batch_size, accumulate, mesh, rules=RULES):
    """Refuses a batch that cannot be sharded evenly: as it is read, and as the rules shard `images` within the step.

    Raises:
        UserError: naming the batch size and what divides it.
    """
    ways = batch_ways(mesh, rules) * accumulate
    if batch_size % ways:
        shards = dict.fromkeys((("data", "fsdp"), mesh_axes(dict(rules)["images"])))
        counted = " and ".join(" * ".join(f"mesh.{axis}" for axis in axes) for axes in shards if axes)
        raise UserError(
            f"batch_size={batch_size} is not divisible by {counted}, times optimizer.accumulate: {ways}; "
            f"choose one that is, such as {-(-batch_size // ways) * ways}. A run that has begun keeps its batch_size: "
            f"resume it on a number of devices that divides it, or let mesh.tensor take more of them."
        )
