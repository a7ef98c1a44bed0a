"""What every conversion asks of a network of ours: its parameters' paths and shapes, and their official names."""

import dataclasses

import flax
import flax.linen as nn
import jax
import numpy as np

from crate_jax.errors import UserError
from crate_jax.interop import names
from crate_jax.models.classifier import Crate, CrateAlpha, CrateClassifier, VitClassifier
from crate_jax.models.masked_autoencoder import CrateMae, VitMae
from crate_jax.models.registry import boxed_shapes
from crate_jax.models.stacks import STACKS, layer_name

LINKS = {
    CrateMae: names.crate_mae_links,
    VitMae: names.vit_mae_links,
    Crate: names.crate_links,
    CrateAlpha: names.crate_alpha_links,
    VitClassifier: names.vit_classifier_links,
}


def by_layer(tree):
    """A network's tree as foreign checkpoints name it: one entry per layer and parameter.

    Args:
        tree: parameters or gradients; a leaf of a stack has a leading layer axis.

    Returns:
        A dictionary from path, joined by slashes ("encoder_03/compression/attention/subspaces"), to leaf.
    """
    flat = {}
    for path, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items():
        stack, _, rest = path.partition("/")
        if stack in STACKS:
            flat.update({f"{layer_name(stack, index)}/{rest}": leaf[index] for index in range(leaf.shape[0])})
        else:
            flat[path] = leaf
    return flat


def stacked(flat):
    """The reverse of `by_layer`, from NumPy arrays."""
    stacks, tree = {}, {}
    for path, leaf in flat.items():
        owner, _, rest = path.partition("/")
        stack, _, number = owner.rpartition("_")
        if stack in STACKS and number.isdecimal():
            stacks.setdefault(f"{stack}/{rest}", {})[int(number)] = leaf
        else:
            tree[path] = leaf
    tree |= {path: np.stack([layers[index] for index in sorted(layers)]) for path, layers in stacks.items()}
    return flax.traverse_util.unflatten_dict(tree, sep="/")


def parameter_shapes(model):
    """Path of each layer's parameters (`by_layer`) to the parameter's shape."""

    class Shape:  # of a stacked leaf: indexing takes one layer's
        def __init__(self, shape):
            self.shape = shape

        def __getitem__(self, index):
            return Shape(self.shape[1:])

    tree = jax.tree.map(lambda leaf: Shape(leaf.shape), nn.meta.unbox(boxed_shapes(model)))
    return {path: leaf.shape for path, leaf in by_layer(tree).items()}


def has_official(model):
    """Whether a network has an official class, whose files it reads and can be written as."""
    return type(model) in LINKS and names.is_official(model)


def links_of(model):
    """The tensors of the official network that `model` is.

    Raises:
        UserError: no official network is like it.
    """
    if not has_official(model):
        began = isinstance(model, CrateClassifier) and names.is_official(model)
        raise UserError(
            f"a {type(model).__name__} with these settings has no official class to convert to; --to=flax keeps it as "
            "it is" + (", and the pre-trained network that it began from can be converted." if began else ".")
        )
    links = LINKS[type(model)](model)
    if getattr(model, "output_projection", None) == "fixed":  # the same tensor, which training leaves alone
        own, fixed = "attention/output_kernel", "attention/fixed_output_kernel"
        links = [dataclasses.replace(link, path=link.path.replace(own, fixed)) for link in links]
    return links


def official_shape(model, link, shape):
    """The shape of a parameter's official tensor."""
    return tuple(names.LAYOUTS[link.layout].shape(shape, model.patch_size))


def needs_decoder(path):
    """Whether a parameter of a masked autoencoder belongs to its decoder."""
    return path.startswith(("decoder_", "head_")) or path == "mask_token"
