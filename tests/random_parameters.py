"""Parameters of a network without compiling its initialisation, for tests that need numbers only."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.models.registry import boxed_shapes


def random_parameters(model, seed=0, deviation=0.2):
    """Normal numbers in the shapes of the network's parameters; no norm or bias is trivial."""
    random = np.random.default_rng(seed)
    shapes = nn.meta.unbox(boxed_shapes(model))
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, deviation, leaf.shape), leaf.dtype), shapes)
