"""What pre-training measures and draws: layers on part of the batch, with alarms; frozen features; completions."""

import jax

from crate_jax.analysis.alarms import alarms
from crate_jax.analysis.layerwise import measure_one_by_one
from crate_jax.evaluation.monitor import Evaluation, Pictures, make_evaluator
from crate_jax.models.masked_autoencoder import CrateMae
from crate_jax.training import observers
from crate_jax.training.objective import channel_statistics, normalise


def measuring_observers(program):
    """What pre-training measures beside its loss: a list of observers.

    Args:
        program: from `training.program.build_program`.
    """
    config, made = program.config, []
    if config.measure_every_steps and isinstance(program.model, CrateMae):
        mean, std = channel_statistics(config, program.model.channels)
        measure = layer_measurement(program.model, mean, std)
        made.append(
            observers.Layers(
                measure,
                mesh=program.mesh,
                every=config.measure_every_steps,
                images=config.measure_images,
                total_steps=program.total_steps,
                alarms=layer_alarms(program.model),
            )
        )
    if config.evaluate_every_steps:
        made.append(
            Evaluation(
                [make_evaluator(config, program.model)],
                mesh=program.mesh,
                every=config.evaluate_every_steps,
                total_steps=program.total_steps,
            )
        )
    if config.picture_every_steps and config.logging:
        made.append(Pictures(config, program.model, mesh=program.mesh, every=config.picture_every_steps))
    return made


def layer_measurement(model, mean, std):
    """What the log says of the layers: (params, uint8 images, `observers.on_one_device`) to scalars by name."""

    @jax.jit
    def means(rows):
        return {
            f"{name}/{layer}": row.mean()
            for name, layers in rows.items()
            for layer, row in zip(model.encoder_names, layers, strict=True)
        }

    def measure(params, images_BxHxWxC, bring):
        return means(measure_one_by_one(model, params, normalise(images_BxHxWxC, mean, std), bring))

    return measure


def layer_alarms(model):
    """A function from a log line to warnings about layers, compared with the first measured line."""
    first = {}

    def look(scalars):
        rows = {}
        for name in sorted(scalars, key=lambda name: (len(name), name)):  # encoder_99 before encoder_100
            kind, _, layer = name.partition("/")
            if layer in model.encoder_names:
                rows.setdefault(kind, []).append(scalars[name])
        if not rows:
            return []
        now = rows | {"loss": scalars["loss"]}
        if not first:
            first.update(now)
        return alarms(now, earlier=first)

    return look
