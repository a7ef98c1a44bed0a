"""The train step: one program, the same for training, ahead-of-time compilation, benchmarks and tests."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from crate_jax.distributed.sharding import RULES, batch_sharding, replicated
from crate_jax.models.layout import constrain


def micro_batches(x, count):
    """B x ... to A x B/A x ... . Interleaved, so that every device cuts its own shard and no row crosses to another."""
    parts = jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1)
    return constrain(parts, None, "images", *(None,) * (x.ndim - 1))


def make_train_step(objective, optimizer, schedule, *, accumulate=1, ema=None):
    """One optimizer step, as a pure function.

    Args:
        objective: (params, batch, key) to (loss, scalars), the key of the seed and the step; `training.objective`.
            Where it has a `prepare`, that sees the global batch once, before it is cut into micro-batches.
        optimizer: an optax transformation.
        schedule: finished steps to learning rate, for the log.
        accumulate: micro-batches a step. Gradients are averaged: the result is that of the whole batch wherever the
            objective is a mean over examples of equal weight.
        ema: decay of the running mean of the parameters, or None.

    Returns:
        A function (state, batch, seed) to (state, metrics); metrics are scalars on the device. The seed (uint32) is an
        argument and no constant, so that runs that differ in it share one compiled program.
    """
    gradient = jax.value_and_grad(objective, has_aux=True)

    def gradients(params, batch, key):
        """((loss, scalars), gradient in the parameters), means over the micro-batches."""
        if accumulate == 1:
            return gradient(params, batch, key)
        parts = jax.tree.map(lambda x: micro_batches(x, accumulate), batch)

        def add(total, part):
            return jax.tree.map(jnp.add, total, gradient(params, part, key)), None

        shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], parts), key)
        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, shapes), parts)
        return jax.tree.map(lambda x: x / accumulate, total)

    def train_step(state, batch, seed):
        batch = objective.prepare(batch) if hasattr(objective, "prepare") else batch
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (loss, scalars), grads = gradients(state.params, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        grad_norm = optax.tree.norm(grads)
        bad = ~(jnp.isfinite(loss) & jnp.isfinite(grad_norm))
        bad_step = jnp.where(bad & (state.bad_step < 0), state.step + 1, state.bad_step)
        metrics = {
            "loss": loss,
            "bad_step": bad_step,
            "learning_rate": schedule(state.step),
            "grad_norm": grad_norm,
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(state.params),
            **scalars,
        }
        mean = state.ema
        if ema is not None:
            mean = jax.tree.map(lambda old, new: ema * old + (1 - ema) * new, state.ema, params)
        state = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=mean, bad_step=bad_step)
        return state, metrics

    return train_step


def jit_train_step(train_step, abstract, mesh, rules=RULES):
    """`make_train_step`'s function jitted for a mesh.

    The state is sharded as `abstract` and donated, the batch sharded, metrics are replicated; `rules` are from
    `distributed.sharding.rules_for`.
    """

    def under_rules(state, batch, seed):
        with nn.logical_axis_rules(rules), jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return train_step(state, batch, seed)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(
        under_rules,
        in_shardings=(shardings, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
