"""How long, and how fast: steps from epochs; warm-up, then a cosine (Loshchilov and Hutter 2017) or a constant rate."""

import math

import optax

from crate_jax.config_schema import STEPS
from crate_jax.errors import UserError


def total_steps(config, num_examples):
    """Optimizer steps of a run; `total_steps` wins over `total_epochs`.

    Raises:
        UserError: neither is set, or more steps than an int32 counts.
    """
    if config.total_steps is not None:
        return config.total_steps
    if config.total_epochs is None:
        raise UserError("neither total_steps nor total_epochs is set; set one of them.")
    steps = max(1, math.ceil(config.total_epochs * num_examples / config.batch_size))
    if steps > STEPS:
        raise UserError(f"total_epochs={config.total_epochs} are {steps} steps, and a run has at most {STEPS}.")
    return steps


def learning_rate(config, num_examples):
    """The learning rate as a function of the number of finished steps.

    Linear from 0 over the warm-up; then half a cosine from the peak to `final_learning_rate` at the last step, or the
    peak throughout, which does not depend on the number of steps.

    Raises:
        UserError: the warm-up is longer than the run.
    """
    steps, settings = total_steps(config, num_examples), config.optimizer
    warmup, given = settings.warmup_steps, f"optimizer.warmup_steps={settings.warmup_steps}"
    if warmup is None:
        warmup = round((settings.warmup_epochs or 0) * num_examples / config.batch_size)
        given = f"optimizer.warmup_epochs={settings.warmup_epochs} ({warmup} steps)"
    if warmup >= steps and warmup > 0:
        raise UserError(f"{given} is not shorter than the run of {steps} steps; shorten it, or set more steps.")
    if settings.final_learning_rate > settings.learning_rate:
        raise UserError("optimizer.final_learning_rate is above optimizer.learning_rate, the peak.")
    rise = (0.0 if warmup else settings.learning_rate, settings.learning_rate, warmup)
    if settings.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(*rise, steps, settings.final_learning_rate)
    if settings.final_learning_rate:
        raise UserError("optimizer.final_learning_rate has no effect on optimizer.schedule=constant; leave it out.")
    return optax.warmup_constant_schedule(*rise)
