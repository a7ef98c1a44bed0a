"""The training state, and the sharding of each part of it."""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from crate_jax.distributed.sharding import RULES, parameter_shardings
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

    Whatever in the optimizer's state has the structure of the parameters is sharded as they are; the rest is
    replicated.

    Returns:
        A `TrainState` of `jax.ShapeDtypeStruct` with shardings over `mesh` by `rules`.
    """
    params_sharding = parameter_shardings(boxed_shapes(model), mesh, rules)
    structure = jax.tree.structure(params_sharding)
    replicated = NamedSharding(mesh, PartitionSpec())

    def like_params(node):
        return jax.tree.structure(node) == structure

    def place(node):
        shardings = params_sharding if like_params(node) else jax.tree.map(lambda _: replicated, node)
        return jax.tree.map(lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), node, shardings)

    shapes = jax.eval_shape(lambda: new_state(model, optimizer, 0, ema=ema))
    return jax.tree.map(place, shapes, is_leaf=like_params)
