"""Measurements for the report: arrays from a network and images, nothing drawn yet.

Numbers use all images; pictures and the expensive measurements use the first few. The same numbers are measured of the
untrained network and, if wanted, of a second one.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.analysis import dictionary, diffusion, inverse, objective
from crate_jax.analysis.attention_maps import layer_codes
from crate_jax.analysis.layerwise import attention_weights, has_attention, measure_both
from crate_jax.analysis.principal_components import colours
from crate_jax.errors import UserError
from crate_jax.models.batches import batch_size, over_images
from crate_jax.models.trace import trace
from crate_jax.operators.masking import example_masks
from crate_jax.operators.patches import grid_of

SHOWN = 8  # images in pictures
FEW = 16  # images of the expensive measurements


@dataclasses.dataclass
class Study:
    """What was measured of a network.

    Attributes:
        model, params: the network.
        images: normalised, NxHxWxC, on the host.
        layers: measurements by layer: {"network" | "training images" | name of another network: {key: LxB}}, encoder
            then decoder; rows that a part does not have are NaN.
        names: of the rows.
        parts: everything else, by name; what the network does not have is absent.
        others: the untrained network and a second run, by name: a `Study` of numbers only.
    """

    model: Any
    params: Any
    images: np.ndarray
    layers: dict
    names: list
    parts: dict
    others: dict = dataclasses.field(default_factory=dict)

    @property
    def has_subspaces(self):
        """Whether its layers compress against subspaces."""
        return "coding_rate" in self.layers["network"]


def measured_layers(model, params, images_NxHxWxC, size=None):
    """`measure_layers` and `measure_decoder_layers` over many images, one under the other.

    Returns:
        A dictionary from key to LxN, NaN where the part has no such measurement.
    """
    parts = over_images(functools.partial(measure_both, model, params), images_NxHxWxC, size=size)
    parts = [part for part in parts if part]
    rows = [len(next(iter(part.values()))) for part in parts]
    missing = np.full((max(rows), len(images_NxHxWxC)), np.nan, np.float32)
    keys = sorted(set().union(*parts))
    return {
        key: np.concatenate([part.get(key, missing[:count]) for part, count in zip(parts, rows, strict=True)])
        for key in keys
    }


def study(
    model, params, images_NxHxWxC, *, training_images=None, untrained=None, baseline=None, norm_pix=False, seed=0
):
    """Measures a network.

    Args:
        model: a masked autoencoder or a classifier.
        params: its parameters.
        images_NxHxWxC: normalised, held out.
        training_images: normalised, of the training split; None: not compared.
        untrained: parameters that the same network begins with; None: not compared.
        baseline: (name, model, params, norm_pix) of a second network, measured on the same images; None: not compared.
        norm_pix: the network predicts standardised patches.
        seed: of the masks.

    Returns:
        A `Study`.

    Raises:
        UserError: a second network that does not take these images.
    """
    images = np.asarray(images_NxHxWxC, np.float32)
    found = _numbers(model, params, images, norm_pix, seed)
    if training_images is not None and len(training_images):
        training = np.asarray(training_images, np.float32)[: 2 * FEW]
        found.layers["training images"] = measured_layers(model, params, training, batch_size(images))
    if untrained is not None:
        found.others["untrained"] = _numbers(model, untrained, images, norm_pix, seed)
    if baseline is not None:
        name, other, other_params, other_norm_pix = baseline
        if other.channels != model.channels or any(side % other.patch_size for side in images.shape[1:3]):
            raise UserError(
                f"--baseline={name}: it takes {other.channels} channels and patches of {other.patch_size} "
                f"pixels, which "
                f"images of {images.shape[1]} x {images.shape[2]} x {images.shape[3]} do not fit."
            )
        found.others[name] = _numbers(other, other_params, images, other_norm_pix, seed)
        few = jnp.asarray(images[: 2 * FEW])
        if len(few) >= 4:
            cka = inverse.compare_networks((model, params), (other, other_params), few)
            found.parts["similarity"] = {"name": name, "cka_IxJ": cka}
    for name, other in found.others.items():
        if other.names == found.names:
            found.layers[name] = other.layers["network"]
    found.parts.update(_pictures(found))
    return found


def _numbers(model, params, images, norm_pix, seed):
    """A `Study` without pictures."""
    layers = {"network": measured_layers(model, params, images)}
    names = [*model.encoder_names, *getattr(model, "decoder_names", [])]
    found = Study(model, params, images, layers, names, {})
    sections = []
    if found.has_subspaces:
        sections.append(lambda: _subspaces(found))
    if any(dictionary.has_sparse_codes(params, name) for name in model.encoder_names):
        sections.append(lambda: _atoms(found))
    if getattr(model, "decoder_names", None):
        sections.append(lambda: _decoder(found, norm_pix, seed))
    for section in sections:  # one after the other: on two cores XLA:CPU was seen to deadlock with two at once
        found.parts.update(section())
    return found


def late_layer(model):
    """The layer that the official scripts look at: 10 of 12, the last but one where there are others."""
    return max(0, min(model.depth - 1, round(model.depth * 10 / 12)))


@functools.partial(jax.jit, static_argnames=("model", "attended", "coded"))
def _first_look(model, params, images_BxHxWxC, attended, coded):
    layers = trace(model, params, images_BxHxWxC)[1]
    attention = {k: attention_weights(model, model.encoder_names[k], layers[model.encoder_names[k]]) for k in attended}
    codes = layer_codes(layers, coded)
    return {name: layer["output"] for name, layer in layers.items()}, attention, codes


def _pictures(found):
    """Attention maps, principal components and patches by atom; the tokens' spectra."""
    model, late = found.model, late_layer(found.model)
    few = jnp.asarray(found.images[:SHOWN])
    chosen = tuple(sorted({0, model.depth // 2, late})) if has_attention(model) else ()
    outputs, attention, codes = jax.device_get(_first_look(model, found.params, few, chosen, model.encoder_names[late]))
    grid = grid_of(found.images.shape[1:3], model.patch_size)
    parts = {
        "spectra": {name: objective.spectrum(tokens) for name, tokens in outputs.items()},
        "grid": grid, "codes_layer": late, "colours": colours(codes, grid),
    }  # fmt: skip
    if attention:
        parts["attention"] = attention
    if "usage" in found.parts:
        shown = tuple(sorted({0, model.depth // 2, model.depth - 1}))
        activation = over_images(lambda x: dictionary.atom_usage(model, found.params, x, shown)[1], found.images)
        parts["patches_of_atoms"] = {}
        for layer, values in zip(shown, activation, strict=True):
            atoms = dictionary.selective_atoms(found.parts["usage"][layer], 8)
            if len(atoms):
                parts["patches_of_atoms"][layer] = (atoms, *dictionary.strongest_patches(values, atoms, 8))
    return parts


def _subspaces(found):
    """The objective around each half-layer, the layers' own steps, the subspaces."""
    model, params = found.model, found.params
    terms = over_images(lambda x: objective.half_layers(model, params, x), found.images)
    parts = {f"half_layers_{part}": held for part, held in terms.items()}
    parts["subspaces"] = dictionary.subspace_geometry(model, params)
    parts["steps"] = over_images(functools.partial(objective.own_steps, model, params), found.images[:FEW])
    return parts


def _atoms(found):
    """The dictionaries and how often their atoms are active."""
    model, params = found.model, found.params
    usage = over_images(lambda x: dictionary.atom_usage(model, params, x)[0], found.images)
    return {"dictionaries": dictionary.dictionary_geometry(model, params), "usage": usage}


def _decoder(found, norm_pix, seed):
    """The decoder as inverse, and completion as diffusion."""
    model, params = found.model, found.params
    few = jnp.asarray(found.images[:FEW])
    compared = inverse.compare_states(model, params, few)
    if compared is None:  # a decoder of another width
        return {}
    grid = grid_of(found.images.shape[1:3], model.patch_size)
    mask = example_masks(jax.random.key(seed), jnp.arange(len(few)), grid, model.mask_ratio)
    parts = {"inverse": compared, "norm_pix": norm_pix, "mask": np.asarray(mask)}
    shown = min(4, len(few))
    measured = over_images(
        lambda x, m: _only_numbers(diffusion.along_depth(model, params, x, m, norm_pix)), few, np.asarray(mask)
    )
    pictures = diffusion.along_depth(model, params, few[:shown], mask[:shown], norm_pix)
    parts["depth"] = measured | {key: np.asarray(x) for key, x in pictures.items() if "pixels" in key}
    if not norm_pix:
        several = found.images[: max(SHOWN, batch_size(found.images))]
        masks = example_masks(jax.random.key(seed), jnp.arange(len(several)), grid, model.mask_ratio)
        parts["iterative"] = {
            order: diffusion.iterative_completion(model, params, jnp.asarray(several), masks, order=order)
            for order in ("certain", "random")
        }
    return parts


def _only_numbers(found):
    return {key: value for key, value in found.items() if "pixels" not in key}
