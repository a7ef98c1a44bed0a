"""Everything a config stands for, put together once: network, objective, optimizer, mesh, state and the jitted step.

Training, ahead-of-time compilation, benchmarks and tests all build their step here, so what is compiled for a pod is
what will run on it.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from crate_jax.config import model_overrides, shown
from crate_jax.distributed.mesh import make_mesh
from crate_jax.distributed.sharding import check_batch, mesh_axes, replicated, rules_for
from crate_jax.errors import UserError
from crate_jax.models.registry import create_model, for_platform
from crate_jax.training.arithmetic import mask_ratios
from crate_jax.training.objective import MaskedCompletion, channel_statistics
from crate_jax.training.optimizer import make_optimizer
from crate_jax.training.preflight import check_objective, check_pretraining
from crate_jax.training.schedule import learning_rate, total_steps
from crate_jax.training.state import new_state, state_shardings
from crate_jax.training.step import jit_train_step, make_train_step


@dataclasses.dataclass(frozen=True)
class Program:
    """What a run executes."""

    config: Any
    model: Any
    mesh: Any
    optimizer: Any  # of optax
    objective: Any  # (params, batch, key) to (loss, scalars)
    abstract: Any  # the state's shapes and shardings
    step: Any  # the jitted train step, (state, batch, seed) to (state, metrics)
    total_steps: int

    @functools.cached_property
    def seed(self):
        """The config's, as the step takes it: a uint32 replicated over the mesh."""
        seed = np.uint32(self.config.seed)
        return jax.make_array_from_callback((), replicated(self.mesh), lambda _: seed)

    def new_state(self):
        """The state at step 0, sharded over the mesh: no device ever holds more than its part."""
        shardings, ema = jax.tree.map(lambda leaf: leaf.sharding, self.abstract), self.config.optimizer.ema is not None
        create = jax.jit(functools.partial(new_state, self.model, self.optimizer, ema=ema), out_shardings=shardings)
        return create(np.uint32(self.config.seed))


def masked_completion(config, model):
    """The pre-training objective of a config.

    Raises:
        UserError: see `preflight.check_objective`.
    """
    check_objective(config, model)
    mean, std = channel_statistics(config, model.channels)
    masking, ratios = config.masking, mask_ratios(config)
    for ratio in ratios[:: len(ratios) - 1] if ratios else ():  # the ends; refuses what cannot be
        try:
            create_model(config.model.name, **model_overrides(config) | {"mask_ratio": ratio})
        except UserError as error:
            raise UserError(f"masking.ratio={shown(masking.ratio)}: {error}") from error
    return MaskedCompletion(
        model, config.norm_pix_loss, mean, std, masking.kind, ratios, masking.per == "step", **config.objective
    )


def _check_kernels(model, mesh, rules):
    """Refuses kernels on whole rows where the mesh shards a row, before anything is compiled."""
    for axis in ("heads", "atoms"):
        over = [name for name in mesh_axes(dict(rules)[axis]) if mesh.shape[name] > 1]
        if over and getattr(model, "product_kernel", "auto") == "pallas":
            raise UserError(
                f"model.product_kernel='pallas' takes whole rows, but {axis} are sharded over the mesh axis "
                f"{', '.join(over)} (mesh.{over[0]}={mesh.shape[over[0]]}, or mesh.rules); choose 'xla', or replicate "
                f"{axis}."
            )


def build_program(config, num_examples, *, mesh=None, model=None, objective=None, scale_by_layer=None):
    """Puts a run together; nothing is computed yet.

    Args:
        config: a checked config.
        num_examples: of the training split; turns epochs into steps.
        mesh: None is the config's, over all devices.
        model: None is the config's, for the platform of the mesh (`models.registry.for_platform`).
        objective: None is masked completion.
        scale_by_layer: see `training.optimizer.make_optimizer`.

    Returns:
        A `Program`.

    Raises:
        UserError: settings that do not go together.
    """
    mesh = mesh or make_mesh(config.mesh)
    if objective is None:
        check_pretraining(config)
    if model is None:
        model = create_model(config.model.name, **model_overrides(config))
        device = mesh.devices.flat[0]
        model = for_platform(model, device.platform, mesh.size, device)
    settings, rules = config.optimizer, rules_for(config.mesh)
    check_batch(config.batch_size, settings.accumulate, mesh, rules)
    _check_kernels(model, mesh, rules)
    objective = objective or masked_completion(config, model)
    optimizer = make_optimizer(config, num_examples, scale_by_layer)
    abstract = state_shardings(model, optimizer, mesh, ema=settings.ema is not None, rules=rules)
    step = make_train_step(
        objective, optimizer, learning_rate(config, num_examples), accumulate=settings.accumulate, ema=settings.ema
    )
    step = jit_train_step(step, abstract, mesh, rules)
    return Program(config, model, mesh, optimizer, objective, abstract, step, total_steps(config, num_examples))
