"""What a run carries from step to step, and where each part of it lies."""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from crate_jax.distributed.sharding import RULES, parameter_shardings
from crate_jax.models.layer_stack import stack_layers
from crate_jax.models.registry import boxed_shapes
from crate_jax.training.stacking import by_layer, stacked


@flax.struct.dataclass
class TrainState:
    """The state.

    Attributes:
        step: optimizer steps finished; the next batch has this number.
        params: float32.
        opt_state: of optax.
        ema: running mean of the parameters, or None.
        bad_step: number of the first step whose loss or gradient was not finite; -1: none was. Kept on the device, so
            that looking for it costs no synchronisation.
        stacks: of layers whose parameters are kept as one array (`models.layer_stack.stacks_of`); () where none are.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    bad_step: jax.Array
    stacks: tuple = flax.struct.field(pytree_node=False, default=())

    def by_layer(self):
        """The same state with each layer by its name."""
        return by_layer(self, self.stacks).replace(stacks=())

    def stacked(self, stacks):
        """The same state, of layers by name, with these stacks."""
        return stacked(self, stacks).replace(stacks=stacks)


def new_state(model, optimizer, seed, *, ema=False, stacks=()):
    """A state at step 0; a pure function of the seed.

    Args:
        model: from `create_model`.
        optimizer: from `make_optimizer`.
        seed: a whole number.
        ema: keep a running mean of the parameters.
        stacks: of layers that are kept as one array.

    Returns:
        A `TrainState`.
    """
    image = jnp.zeros((1, model.image_size, model.image_size, model.channels))
    params = stack_layers(nn.meta.unbox(model.init(jax.random.key(seed), image)["params"]), stacks)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        # a copy: the step donates its state, and one buffer cannot be given away twice
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        bad_step=jnp.full((), -1, jnp.int32),
        stacks=stacks,
    )


def state_shardings(model, optimizer, mesh, *, ema=False, stacks=(), rules=RULES):
    """The abstract state: shapes, types and a sharding of every array.

    Whatever in the optimizer's state has the structure of the parameters lies as they do; the rest is copied.

    Args:
        model, optimizer, ema, stacks: as `new_state` takes them.
        mesh: from `make_mesh`.
        rules: from `distributed.sharding.rules_for`.

    Returns:
        A `TrainState` of `jax.ShapeDtypeStruct` with shardings.
    """
    boxed = boxed_shapes(model)
    one_by_one = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        nn.meta.unbox(boxed),
        parameter_shardings(boxed, mesh, rules),
    )
    by_parameter = jax.tree.map(lambda leaf: leaf.sharding, stacked(one_by_one, stacks))
    shapes = jax.eval_shape(lambda: new_state(model, optimizer, 0, ema=ema, stacks=stacks))
    structure = jax.tree.structure(by_parameter)
    copied = NamedSharding(mesh, PartitionSpec())

    def like_params(node):
        return jax.tree.structure(node) == structure

    def place(node):
        where = by_parameter if like_params(node) else jax.tree.map(lambda _: copied, node)
        return jax.tree.map(lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), node, where)

    return jax.tree.map(place, shapes, is_leaf=like_params)


def create_state(model, optimizer, seed, abstract, *, ema=False):
    """A state at step 0, made where it will lie, as `abstract` is: no device ever holds more than its part."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    stacks = abstract.stacks
    return jax.jit(lambda: new_state(model, optimizer, seed, ema=ema, stacks=stacks), out_shardings=shardings)()
