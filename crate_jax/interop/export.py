"""A network of ours as an official state dict: every tensor of the official class, so that strict=True loads it.

What the network never had is written with the official initial value: the sine-cosine tables, CRATE-MAE's unused
`decoder_embed` (Xavier-uniform, zero bias), a mask token (normal, 0.02). An output projection that is no matrix of its
own is written as what it computes: `to_out` = U where it is tied, U^T, or the identity, with no bias.
"""

import logging
import math

import numpy as np

from crate_jax.errors import UserError
from crate_jax.interop.network import by_layer, links_of, official_shape
from crate_jax.interop.recognition import description_for
from crate_jax.interop.tensor_files import write_safetensors, write_torch
from crate_jax.models.classifier import Crate, CrateAlpha, VitClassifier
from crate_jax.models.masked_autoencoder import CrateMae, VitMae
from crate_jax.operators.positions import sincos_positions


def official_arrays(model, params):
    """Parameters (or gradients) by their official names, and nothing beside them."""
    flat = by_layer(params)
    return {
        link.official: link.to_official(np.asarray(flat[link.path]), official_shape(model, link, flat[link.path].shape))
        for link in links_of(model)
        if link.path in flat
    }


def official_tensors(checkpoint):
    """Everything that the official class holds, and how to get it.

    Args:
        checkpoint: such as `checkpoint_file.open_checkpoint` gives.

    Returns:
        Official name to (shape, function that makes the tensor).

    Raises:
        UserError: no official class is like this network.
    """
    model, tensors = checkpoint.model, {}
    links = links_of(model)
    _check_single_head(model)
    for name, (shape, make) in initial_tensors(model).items():
        if checkpoint.encoder_only and name != "pos_embed":
            continue
        tensors[name] = shape, make
        if checkpoint.spare.get(name) == shape:
            tensors[name] = shape, lambda name=name: checkpoint.read_spare(name)
    for link in links:
        if link.path in checkpoint.paths:
            shape = official_shape(model, link, checkpoint.shapes[link.path])
            tensors[link.official] = shape, lambda link=link, s=shape: link.to_official(checkpoint.read(link.path), s)
        elif link.path.endswith(("attention/output_kernel", "attention/output_bias")):
            tensors.update(_without_its_own(checkpoint, link))
    return tensors


def _check_single_head(model):
    """Refuses an output projection where the official class has none, with a single head."""
    kind = getattr(model, "output_projection", "learned")
    if model.num_heads == 1 and kind not in ("learned", "identity"):
        raise UserError(
            f"model.output_projection={kind!r} with a single head: the official class has no projection there at all."
        )


def _without_its_own(checkpoint, link):
    """The output projection of a network that has no matrix (or bias) of its own there."""
    width, kind = checkpoint.model.width, checkpoint.model.output_projection
    if checkpoint.model.num_heads == 1:
        return {}
    if link.path.endswith("output_bias"):
        return {link.official: ((width,), lambda: np.zeros(width))}
    subspaces = link.path.replace("output_kernel", "subspaces")
    make = {
        "tied": lambda: checkpoint.read(subspaces),
        "transposed": lambda: checkpoint.read(subspaces).T,
        "identity": lambda: np.eye(width),
    }[kind]
    return {link.official: ((width, width), make)}


def initial_tensors(model):
    """Official tensors that a network of ours may lack: name to (shape, function that makes its initial value)."""
    width, grid = model.width, model.table_grid

    def table(width):
        return (1, grid[0] * grid[1] + 1, width), lambda: sincos_positions(grid, width)[None]

    if isinstance(model, VitClassifier):
        return {"pos_embed": table(width)}
    if isinstance(model, Crate | CrateAlpha):
        return {}
    inner = model.decoder_width or width
    token = (1, 1, inner)
    tensors = {
        "pos_embed": table(width),
        "decoder_pos_embed": table(inner),
        "mask_token": (token, lambda: np.random.default_rng(0).normal(0, 0.02, token)),
    }
    if isinstance(model, CrateMae):
        bound, square = math.sqrt(3 / width), (width, width)
        uniform = np.random.default_rng(1).uniform
        tensors["decoder_embed.weight"] = square, lambda: uniform(-bound, bound, square)
        tensors["decoder_embed.bias"] = (width,), lambda: np.zeros(width)
    return tensors


def warn_of_options(model):
    """Says which options the official class does not have: there, the same tensors compute something else."""
    official = {
        "skip": "input", "attention_scale": "official", "positions": "added", "compression": "mssa",
        "compression_step": "add",
    }  # fmt: skip
    changed = [
        f"{name}={getattr(model, name)}" for name, value in official.items() if getattr(model, name, value) != value
    ]
    if isinstance(model, VitMae) and model.table_grid != model.grid:
        changed.append("resized positions")
    if changed:
        logging.warning("The official class has no %s: it will compute something else.", ", ".join(changed))
    if isinstance(model, CrateMae) and model.mask_mode != "token":
        logging.warning(
            "The official class has no mask_mode=%s: its features of whole images are the same, its completions of "
            "masked ones differ.",
            model.mask_mode,
        )


def write_official(checkpoint, path, form):
    """Writes an official state dict.

    Args:
        checkpoint: such as `checkpoint_file.open_checkpoint` gives.
        path: the file to write.
        form: "torch" or "safetensors".

    Returns:
        Official name to shape, of what was written.
    """
    tensors = official_tensors(checkpoint)
    warn_of_options(checkpoint.model)
    shapes = {name: tuple(shape) for name, (shape, _) in tensors.items()}
    description = description_for(checkpoint)

    def read(name):
        return tensors[name][1]()

    if form == "torch":
        # the wrapping that the family's official scripts look for
        write_torch(path, shapes, read, description, "state_dict" if isinstance(checkpoint.model, Crate) else "model")
    else:
        write_safetensors(path, shapes, read, description)
    return shapes
