"""AdamW as MAE uses it, Muon, Lion, SGD and LARS: decoupled weight decay on matrices and tokens, not on biases, norms.

The decay mask goes by a parameter's name, never by its number of axes: a stack of biases has two. What depends on a
layer (LARS's norms, layer-wise decay) works along the stacks' leading layer axis.
"""

import flax
import jax
import jax.numpy as jnp
import optax
import optax.contrib

from crate_jax.models.stacks import STACKS
from crate_jax.training.schedule import learning_rate

_UNDECAYED = (
    "bias", "scale", "kappa", "layer_scale", "temperature", "step_tokens", "step_representatives",
    "fixed_output_kernel",
)  # fmt: skip


def decay_mask(params):
    """A tree like `params`, True where weight decay applies: not to biases, norm scales, step sizes and fixed maps."""
    return flax.traverse_util.path_aware_map(
        lambda path, _: not (path[-1] in _UNDECAYED or path[-1].endswith("_bias")), params
    )


def make_optimizer(config, num_examples, scale_by_layer=None):
    """The gradient transformation of a config.

    Args:
        config: its `optimizer`, `total_steps` and `batch_size` are used.
        num_examples: of the training split.
        scale_by_layer: a function from parameters to a tree of factors of the learning rate (layer-wise decay); a
            factor broadcasts to its parameter.

    Returns:
        An `optax.GradientTransformation`.

    Raises:
        UserError: see `training.schedule`.
    """
    settings, rate = config.optimizer, learning_rate(config, num_examples)
    decay, momentum = optax.add_decayed_weights(settings.weight_decay, decay_mask), optax.trace(settings.b1)
    moments = {"b1": settings.b1, "b2": settings.b2, "mu_dtype": settings.moments_dtype}
    adam = optax.scale_by_adam(**moments)
    steps = {
        "adamw": [adam, decay],
        "muon": [scale_by_muon(settings, adam), decay],
        "lion": [optax.scale_by_lion(**moments), decay],
        "sgd": [decay, momentum],
        # You et al. 2017, as in Meta's MAE: decay, trust ratio, momentum, and the rate last
        "lars": [decay, optax.masked(layer_trust_ratio(0.001), decay_mask), momentum],
    }[settings.name]
    if settings.clip_norm:
        steps.insert(0, optax.clip_by_global_norm(settings.clip_norm))
    if scale_by_layer is not None:
        steps.append(
            optax.stateless(lambda updates, params: jax.tree.map(jnp.multiply, updates, scale_by_layer(params)))
        )
    return optax.chain(*steps, optax.scale_by_learning_rate(rate))


def scale_by_muon(settings, adam):
    """Muon for the matrices of the layers, `adam` for everything else (Jordan et al. 2024; Liu et al. 2025).

    The momentum of a matrix of one layer is replaced by the nearest semi-orthogonal matrix (five Newton-Schulz
    iterations), scaled to the root mean square 0.2 of an AdamW update, so that AdamW's learning rates and decays hold.
    """

    def labels(params):
        return flax.traverse_util.path_aware_map(
            lambda path, leaf: "muon" if path[0] in STACKS and leaf.ndim == 3 else "adam", params
        )

    def axes(params):
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(1, 2), params)

    def to_rms(updates, params):
        return jax.tree.map(lambda update: 0.2 * max(update.shape[1:]) ** 0.5 * update, updates)

    muon = optax.contrib.scale_by_muon(beta=settings.b2, mu_dtype=settings.moments_dtype, weight_dimension_numbers=axes)
    return optax.partition({"muon": optax.chain(muon, optax.stateless(to_rms)), "adam": adam}, labels)


def layer_trust_ratio(coefficient):
    """LARS's scale, update * coefficient ||w|| / ||update||, each layer of a stack by its own norms.

    A layer whose weight or update is zero is left alone. (`optax.scale_by_trust_ratio` takes a stack as one layer.)
    """

    def scaled(path, update, weight):
        stacked = getattr(path[0], "key", None) in STACKS
        axes = tuple(range(1 if stacked else 0, update.ndim))
        weight_norm, update_norm = (jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True)) for x in (weight, update))
        usable = (weight_norm > 0) & (update_norm > 0)
        return update * jnp.where(usable, coefficient * weight_norm / jnp.where(usable, update_norm, 1.0), 1.0)

    def scale(updates, params):
        return jax.tree_util.tree_map_with_path(scaled, updates, params)

    return optax.stateless(scale)
