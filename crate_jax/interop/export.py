"""A network of ours as an official state dict: every tensor of the official class, so that strict=True loads it.

What the network never had is written with the official initial value: the sine-cosine tables, CRATE-MAE's unused
`decoder_embed` (Xavier-uniform, zero bias), a mask token (normal, 0.02). A tied output projection is written as what it
computes, `to_out` = U with no bias.
"""

import logging
import math

import flax
import numpy as np

from crate_jax.errors import UserError
from crate_jax.interop.network import links_of, official_shape, parameter_shapes
from crate_jax.models.classifier import VitClassifier
from crate_jax.models.masked_autoencoder import CrateMae, VitMae
from crate_jax.operators.positions import sincos_positions

WRAPPER = {"crate": "state_dict"}  # what the official scripts wrap a state dict in; all others: "model"


def official_arrays(model, params):
    """Parameters (or gradients) by their official names, and nothing beside them."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return {
        link.official: link.to_official(np.asarray(flat[link.path]), official_shape(model, link, flat[link.path].shape))
        for link in links_of(model)
        if link.path in flat
    }


class OfficialTensors:
    """A checkpoint of whatever kind, seen as an official state dict; tensors are made when they are asked for.

    Attributes:
        shapes: official name to shape.
    """

    def __init__(self, checkpoint):
        self.checkpoint, model = checkpoint, checkpoint.model
        shapes = parameter_shapes(model)
        self.links = {link.official: link for link in links_of(model) if link.path in checkpoint.paths}
        self.shapes = {name: official_shape(model, link, shapes[link.path]) for name, link in self.links.items()}
        self.fresh = {} if checkpoint.encoder_only else missing_tensors(model, checkpoint.read)
        if checkpoint.encoder_only:
            self.fresh["pos_embed"] = lambda: table(model, model.width)
        self.fresh = {name: make for name, make in self.fresh.items() if name not in self.shapes}
        # shapes without making: a spare tensor has the shape it came with, all others are small or square
        for name, make in self.fresh.items():
            self.shapes[name] = make().shape
        for name, shape in checkpoint.spare.items():
            if self.shapes.get(name) == tuple(shape):
                self.fresh.pop(name)
        warn_of_options(model)

    def read(self, name):
        """One tensor."""
        if name in self.links:
            link = self.links[name]
            return link.to_official(self.checkpoint.read(link.path), self.shapes[name])
        return self.fresh[name]() if name in self.fresh else self.checkpoint.read_spare(name)


def table(model, width):
    """The frozen sine-cosine table, 1 x T x D."""
    side = (model.table_image_size or model.image_size) // model.patch_size
    return sincos_positions((side, side), width)[None]


def missing_tensors(model, read):
    """Official tensors that a network of ours may lack: name to a function that makes it."""
    makers = {}
    if isinstance(model, CrateMae | VitMae):
        inner = model.decoder_width or model.width
        makers["pos_embed"] = lambda: table(model, model.width)
        makers["decoder_pos_embed"] = lambda: table(model, inner)
        makers["mask_token"] = lambda: np.random.default_rng(0).normal(0, 0.02, (1, 1, inner))
    if isinstance(model, VitClassifier):
        makers["pos_embed"] = lambda: table(model, model.width)
    if isinstance(model, CrateMae):
        bound = math.sqrt(3 / model.width)
        square = (model.width, model.width)
        makers["decoder_embed.weight"] = lambda: np.random.default_rng(1).uniform(-bound, bound, square)
        makers["decoder_embed.bias"] = lambda: np.zeros(model.width)
    if getattr(model, "output_projection", None) == "tied":
        for link in links_of(model):
            if link.path.endswith("output_kernel"):
                subspaces = link.path.replace("output_kernel", "subspaces")
                makers[link.official] = lambda path=subspaces: read(path)
            if link.path.endswith("output_bias"):
                makers[link.official] = lambda: np.zeros(model.width)
    return makers


def warn_of_options(model):
    """Says which options the official class does not have: there, the same tensors compute something else."""
    official = {"skip": "input", "attention_scale": "official", "positions": "added"}
    changed = [f"{k}={getattr(model, k)}" for k, v in official.items() if getattr(model, k, v) != v]
    if isinstance(model, CrateMae) and model.mask_mode != "token":
        changed.append(f"mask_mode={model.mask_mode}")
    if changed:
        logging.warning("The official class has no %s: it will compute something else.", ", ".join(changed))


def check_exportable(model):
    """Refuses a network that no official class is like.

    Raises:
        UserError: the decoder's heads or width are its own.
    """
    if isinstance(model, CrateMae) and model.num_heads == 1 and model.output_projection == "tied":
        raise UserError(
            "a single head of full width has no output projection in the official class; it cannot be tied."
        )
    links_of(model)
