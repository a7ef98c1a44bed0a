"""AdamW as MAE uses it: decoupled weight decay on matrices and tokens, none on biases and norms.

The mask goes by a parameter's name, never by its number of axes: a stack of biases has two.
"""

import flax
import jax
import optax

from crate_jax.training.schedule import learning_rate

_UNDECAYED = ("bias", "scale")


def decay_mask(params):
    """True where weight decay applies: not to a bias, not to a norm's scale.

    Args:
        params: a tree of parameters, or of anything with their names.

    Returns:
        A tree of booleans.
    """
    flat = flax.traverse_util.flatten_dict(params)
    return flax.traverse_util.unflatten_dict(
        {path: not (path[-1] in _UNDECAYED or path[-1].endswith("_bias")) for path in flat}
    )


def make_optimizer(config, num_examples, scale_by_layer=None):
    """The gradient transformation of a config.

    Args:
        config: its `optimizer`, `total_steps` and `batch_size` are used.
        num_examples: of the training split.
        scale_by_layer: a function from parameters to a tree of factors of the learning rate (layer-wise decay).

    Returns:
        An `optax.GradientTransformation`.

    Raises:
        UserError: see `training.schedule`.
    """
    settings, rate = config.optimizer, learning_rate(config, num_examples)
    decay = {"weight_decay": settings.weight_decay, "mask": decay_mask}
    steps = []
    if settings.clip_norm:
        steps.append(optax.clip_by_global_norm(settings.clip_norm))
    if settings.name == "adamw":
        steps.append(optax.scale_by_adam(settings.b1, settings.b2, mu_dtype=settings.moments_dtype))
        steps.append(optax.add_decayed_weights(**decay))
    elif settings.name == "lion":
        steps.append(optax.scale_by_lion(settings.b1, settings.b2, mu_dtype=settings.moments_dtype))
        steps.append(optax.add_decayed_weights(**decay))
    elif settings.name == "sgd":
        steps.append(optax.add_decayed_weights(**decay))
        steps.append(optax.trace(settings.b1))
    else:
        steps.append(optax.add_decayed_weights(**decay))
        steps.append(optax.masked(optax.scale_by_trust_ratio(trust_coefficient=0.001), decay_mask))
    if scale_by_layer is not None:
        steps.append(optax.stateless(lambda updates, params: _multiply(updates, scale_by_layer(params))))
    steps.append(optax.scale_by_learning_rate(rate))
    if settings.name == "lars":  # momentum after the rate, as You et al. 2017
        steps.append(optax.trace(settings.b1))
    return optax.chain(*steps)


def works_entry_by_entry(config, scale_by_layer=None):
    """Whether `make_optimizer` of these makes the same of a stack of layers as of each layer."""
    return config.optimizer.name != "lars" and scale_by_layer is None


def _multiply(updates, factors):
    return jax.tree.map(lambda update, factor: update * factor, updates, factors)
