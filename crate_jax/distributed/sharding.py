"""Which array is split along which mesh axis: logical names of axes (`models.layout`), turned by one table of rules."""

import flax.linen as nn
import jax
from jax.sharding import NamedSharding, PartitionSpec

from crate_jax.errors import UserError

RULES = (
    ("images", ("data", "fsdp")),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("atoms", "tensor"),
    ("hidden", "tensor"),
    ("pixels", None),
    ("classes", None),
)

BATCH = PartitionSpec(("data", "fsdp"))


def rules_for(mesh):
    """The rules, as `flax.linen.logical_axis_rules` takes them."""
    del mesh  # every mesh has all three axes; one of size one splits nothing
    return RULES


def parameter_shardings(boxed, mesh):
    """A sharding for each parameter.

    Args:
        boxed: `models.registry.boxed_shapes`, or any tree with logical names.
        mesh: from `make_mesh`.

    Returns:
        A tree of `NamedSharding` with the parameters' structure.

    Raises:
        UserError: an axis of a parameter is not divisible by the mesh axis it is split along, or a parameter carries no
            logical names at all.
    """

    def sharding(path, leaf):
        name = "/".join(key.key for key in path if hasattr(key, "key"))
        if not isinstance(leaf, nn.LogicallyPartitioned):
            raise UserError(f"the parameter {name} carries no logical axes, so no rule of the mesh covers it.")
        spec = nn.logical_to_mesh_axes(leaf.names, RULES)
        for size, axes in zip(leaf.value.shape, spec, strict=True):
            ways = 1
            for axis in (axes,) if isinstance(axes, str) else axes or ():
                ways *= mesh.shape[axis]
            if size % ways:
                raise UserError(
                    f"mesh.{axes}={ways} does not divide an axis of {size} of the parameter {name}; "
                    f"choose a mesh axis that does."
                )
        return NamedSharding(mesh, spec)

    def is_box(leaf):
        return isinstance(leaf, nn.LogicallyPartitioned)

    return jax.tree_util.tree_map_with_path(sharding, boxed, is_leaf=is_box)


def batch_sharding(mesh):
    """Images split over data and fsdp."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh):
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch(batch_size, accumulate, mesh):
    """Refuses a batch that the mesh cannot split evenly.

    Raises:
        UserError: naming the batch size and what divides it.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"] * accumulate
    if batch_size % ways:
        raise UserError(
            f"batch_size={batch_size} is not divisible by mesh.data * mesh.fsdp * optimizer.accumulate = {ways}; "
            f"choose one that is, such as {-(-batch_size // ways) * ways}."
        )
