"""What every conversion asks of a network of ours: its parameters' paths and shapes, and their official names."""

import flax
import flax.linen as nn

from crate_jax.errors import UserError
from crate_jax.interop import names
from crate_jax.models.classifier import Crate, VitClassifier
from crate_jax.models.masked_autoencoder import CrateMae, VitMae
from crate_jax.models.registry import boxed_shapes

LINKS = {
    CrateMae: names.crate_mae_links,
    VitMae: names.vit_mae_links,
    Crate: names.crate_links,
    VitClassifier: names.vit_classifier_links,
}


def parameter_shapes(model):
    """Path, joined by slashes, to the parameter's shape."""
    tree = nn.meta.unbox(boxed_shapes(model))
    return {path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def links_of(model):
    """The tensors of the official network that `model` is.

    Raises:
        UserError: no official network is like it.
    """
    if type(model) not in LINKS:
        raise UserError(
            f"a {type(model).__name__} has no official class to convert to; --to=flax keeps it as it is, "
            f"and the pre-trained network that it began from can be converted."
        )
    return LINKS[type(model)](model)


def official_shape(model, link, shape):
    """The shape of a parameter's official tensor."""
    return tuple(names.LAYOUTS[link.layout].shape(shape, model.patch_size))


def needs_decoder(path):
    """Whether a parameter of a masked autoencoder belongs to its decoder."""
    return path.startswith(("decoder_", "head_")) or path == "mask_token"
