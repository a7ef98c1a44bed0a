"""Logical names of the axes of parameters and activations; a mesh's rules turn them into shardings.

    images    the batch                      embed     entries of a token (D)
    heads     K P, the subspaces' columns    atoms     the dictionary's columns, and the decoder map's
    hidden    the units of an MLP            pixels    p p C          classes   of a classifier's head
    layers    of a stack of layers, the leading axis of its parameters

Rules (logical name to mesh axis) are active within `flax.linen.logical_axis_rules`; outside, or without a mesh, nothing
is constrained.
"""

import math

import flax.linen as nn
import jax


def partitioned(initializer, *names):
    """An initializer whose parameter carries the logical name of each axis."""
    return nn.with_logical_partitioning(initializer, names)


def _axes(*names):
    """Mesh axes of each logical name, and the mesh in force; (None, None) without a mesh or rules."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not nn.get_logical_axis_rules():
        return None, None
    return nn.logical_to_mesh_axes(names), mesh


def constrain(x, *names):
    """Constrains an array to the sharding that the rules give to these logical names; None is replicated.

    Without a mesh or rules the array is returned as it is.
    """
    axes, mesh = _axes(*names)
    return x if axes is None else jax.lax.with_sharding_constraint(x, jax.sharding.NamedSharding(mesh, axes))


def spec_of(shape, *names):
    """The `PartitionSpec` of an array in the mesh in force, for code written per device; None without a mesh.

    An axis that the mesh axes of its logical name do not divide is replicated.
    """
    by_name, mesh = _axes(*names)
    if by_name is None:
        return None

    def ways(axes):
        return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))

    kept = (None if size % ways(axes) else axes for size, axes in zip(shape, by_name, strict=True))
    return jax.sharding.PartitionSpec(*kept)


def token_spec(z_BxNxD):
    """How tokens are sharded over the mesh in force, for kernels that are written per device."""
    return spec_of((z_BxNxD.shape[0], 1, 1), "images", None, None)
