"""The training state, and the sharding of each part of it."""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from crate_jax.distributed.sharding import RULES, mesh_axes, parameter_shardings
from crate_jax.models.registry import boxed_shapes, initial


@flax.struct.dataclass
class TrainState:
    """The state."""

    step: jax.Array  # optimizer steps finished; the next batch has this number
    params: Any  # float32
    opt_state: Any  # of optax
    ema: Any  # running mean of the parameters, or None
    bad_step: jax.Array  # the first whose loss or gradient is not finite; -1: none. On the device: no step waits for it


def new_state(model, optimizer, seed, *, ema=False):
    """A `TrainState` at step 0, a pure function of the seed; with `ema` it keeps a running mean of the parameters."""
    params = nn.meta.unbox(initial(model, jax.random.key(seed)))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        # a copy: the step donates its state, and one buffer cannot be donated twice
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        bad_step=jnp.full((), -1, jnp.int32),
    )


def state_shardings(model, optimizer, mesh, *, ema=False, rules=RULES):
    """The abstract state: shapes, types and a sharding of every array.

    What the optimizer keeps for a parameter is sharded as the parameter is, and everything else is replicated. Muon's
    momentum is sharded over the mesh axis data by layers as well, where it divides them: each device orthogonalises
    its own layers.

    Returns:
        A `TrainState` of `jax.ShapeDtypeStruct` with shardings over `mesh` by `rules`.
    """
    shardings = jax.tree_util.tree_leaves_with_path(parameter_shardings(boxed_shapes(model), mesh, rules))
    by_name = {_names(path): sharding for path, sharding in shardings}
    data = mesh.shape["data"]

    def place(path, leaf):
        names = _names(path)
        start = next((start for start in range(len(names)) if names[start:] in by_name), None)
        spec = PartitionSpec() if start is None else by_name[names[start:]].spec
        used = {axis for entry in spec for axis in mesh_axes(entry)}  # by `mesh.rules`, data as well
        if "muon" in names[:start] and len(spec) and not leaf.shape[0] % data and "data" not in used:
            spec = PartitionSpec("data", *spec[1:])
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(lambda: new_state(model, optimizer, 0, ema=ema)))


def _names(path):
    """The keys of the dictionaries on a path: the name of a parameter, in any state of an optimizer."""
    return tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
