"""How a scanned network's state is kept: one array for all layers of a stack, so that the step's program does not grow.

Whatever else reads the state (checkpoints, observers, evaluation) sees each layer by its name, as in an unrolled
network; `by_layer` and `stacked` turn one into the other. They are exact, and need room for both while they run.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from crate_jax.models.layer_stack import stack_layers, unstack_layers


def stacked(tree, stacks):
    """Layers by name to one array for all of them.

    Args:
        tree: anything that holds trees with the parameters' names: parameters, an optimizer's state.
        stacks: `models.layer_stack.stacks_of`; () leaves the tree as it is.

    Returns:
        The tree, on the devices that it was on; of shapes for a tree of shapes.
    """
    return _changed(stack_layers, tree, stacks) if stacks else tree


def by_layer(tree, stacks):
    """The reverse of `stacked`."""
    return _changed(unstack_layers, tree, stacks) if stacks else tree


def _stacked_shape(leaves):
    """Shape, type and sharding of a stack of equal ones."""
    first = leaves[0]
    where = _respecified(first.sharding, lambda spec: (None, *spec))
    return jax.ShapeDtypeStruct((len(leaves), *first.shape), first.dtype, sharding=where)


def _shape_of_one(leaf, _):
    """Shape, type and sharding of each layer of a stack."""
    where = _respecified(leaf.sharding, lambda spec: spec[1:])
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=where)


def _respecified(sharding, change):
    """A sharding whose `PartitionSpec` is changed; one that has none (a single device) is the same for any shape."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*change(sharding.spec)))


def _changed(change, tree, stacks):
    """Shapes are changed here, arrays by a program that leaves each where it was."""
    leaves, structure = jax.tree.flatten(tree)
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)) for x in leaves)
    wanted, program = _program(change, structure, shapes, stacks)
    return wanted if all(isinstance(x, jax.ShapeDtypeStruct) for x in leaves) else program(tree)


@functools.lru_cache(maxsize=16)
def _program(change, structure, shapes, stacks):
    how = _stacked_shape if change is stack_layers else _shape_of_one
    wanted = _everywhere(change, jax.tree.unflatten(structure, shapes), stacks, how)
    how = jnp.stack if change is stack_layers else lambda leaf, index: leaf[index]
    where = jax.tree.map(lambda leaf: leaf.sharding, wanted)
    return wanted, jax.jit(lambda tree: _everywhere(change, tree, stacks, how), out_shardings=where)


def _everywhere(change, tree, stacks, how):
    """`change` on every dictionary with the parameters' names."""
    names = {name for stack, layers in stacks for name in (stack, *layers)}

    def is_params(node):
        return isinstance(node, dict) and not names.isdisjoint(node)

    return jax.tree.map(lambda node: change(node, stacks, how) if is_params(node) else node, tree, is_leaf=is_params)
