"""A network by its name, with anything overridden; what cannot be built is refused in one sentence."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.errors import UserError, nearest
from crate_jax.models.classifier import Crate, CrateClassifier, VitClassifier
from crate_jax.models.layer_stack import REMAT
from crate_jax.models.masked_autoencoder import CrateMae, VitMae
from crate_jax.models.sizes import SIZES

FAMILIES = {
    "crate_mae": CrateMae,
    "vit_mae": VitMae,
    "crate_classifier": CrateClassifier,
    "vit_classifier": VitClassifier,
    "crate": Crate,  # last: the others begin with its name
}

CHOICES = {
    "output_projection": ("learned", "tied"),
    "skip": ("input", "normed"),
    "attention_scale": ("official", "paper"),
    "positions": ("added", "subtracted"),
    "remat": REMAT,
    "attention_kernel": ("auto", "xla", "recompute", "pallas"),
    "product_kernel": ("auto", "xla", "pallas"),
    "pooling": ("cls", "mean"),
}


def model_class(name):
    """The class that a network's name stands for.

    Raises:
        UserError: no network has this name.
    """
    if name not in SIZES:
        raise UserError(f"model.name={name!r}: there is no such network{nearest(name, SIZES)}")
    return next(family for prefix, family in FAMILIES.items() if name.startswith(prefix + "_"))


def for_platform(model, platform, devices=1):
    """The network with what "auto" stands for when it is trained on this platform.

    On a TPU plain XLA moves less and keeps less where scores are recomputed, a CPU is faster image by image
    (`benchmarks/README.md`). Pallas kernels are never chosen here: they have yet to be timed on a TPU.

    Args:
        model: from `create_model`.
        platform: "cpu", "gpu" or "tpu".
        devices: how many it is trained on.
    """
    if getattr(model, "attention_kernel", None) != "auto":
        return model
    if platform == "tpu":
        return model.clone(attention_kernel="recompute")
    return model.clone(attention_kernel="image_by_image") if platform == "cpu" and devices == 1 else model


def create_model(name, **overrides):
    """A Linen module.

    Args:
        name: such as "crate_mae_base" or "vit_mae_large" (`models.sizes`).
        **overrides: any attribute of the module; None means "from the name". `dtype` may be a string.

    Returns:
        `CrateMae`, `VitMae` or a classifier, not yet initialised.

    Raises:
        UserError: an unknown name or attribute, or values that do not go together.
    """
    family = model_class(name)
    known = {field.name for field in dataclasses.fields(family)} - {"parent", "name"}
    settings = dict(SIZES[name])
    for key, value in overrides.items():
        if value is None:
            continue
        if key not in known:
            raise UserError(f"model.{key}: {name} has no such setting{nearest(key, known)}")
        settings[key] = value
    if "dtype" in settings:
        settings["dtype"] = jnp.dtype(settings["dtype"]).type
    model = family(**settings)
    check_model(model)
    return model


def check_model(model):
    """Refuses a network that cannot work.

    Raises:
        UserError: naming the settings that do not go together, and a value that would do.
    """

    def refuse(sentence):
        raise UserError(sentence)

    for key, choices in CHOICES.items():
        value = getattr(model, key, choices[0])
        if value not in choices:
            refuse(f"model.{key}={value!r} is none of {', '.join(choices)}")
    if model.image_size % model.patch_size:
        fits = max(1, round(model.image_size / model.patch_size)) * model.patch_size
        refuse(
            f"model.image_size={model.image_size} is not divisible by model.patch_size={model.patch_size}; "
            f"choose an image size that is, such as {fits}."
        )
    pairs = [("width", "num_heads")]
    if getattr(model, "decoder_width", None) or getattr(model, "decoder_num_heads", None):
        pairs.append(("decoder_width", "decoder_num_heads"))
    for width_name, heads_name in pairs:
        width = getattr(model, width_name) or model.width
        heads = getattr(model, heads_name) or model.num_heads
        if width % heads:
            fits = (width // heads) * heads or heads
            refuse(
                f"model.{width_name}={width} is not divisible by model.{heads_name}={heads}; choose a width that is, "
                f"such as {fits} or {fits + heads}."
            )
        if width % 4:
            refuse(f"model.{width_name}={width}: sine-cosine positions need a multiple of 4.")
    if isinstance(model, CrateMae) and model.decoder_width not in (None, model.width):
        refuse("model.decoder_width: a CRATE-MAE's decoder has its encoder's width; leave it unset.")
    if hasattr(model, "mask_mode"):
        _check_masking(model, refuse)


def _check_masking(model, refuse):
    if not 0 < model.mask_ratio < 1:
        refuse(f"model.mask_ratio={model.mask_ratio} is outside (0, 1); MAE's is 0.75.")
    visible = int(model.num_patches * (1 - model.mask_ratio))
    if visible < 1:
        refuse(
            f"model.mask_ratio={model.mask_ratio} leaves none of {model.num_patches} patches visible; "
            f"choose a smaller ratio or model.patch_size."
        )
    if visible == model.num_patches:
        refuse(f"model.mask_ratio={model.mask_ratio} removes none of {model.num_patches} patches; choose a larger one.")
    modes = ("drop",) if isinstance(model, VitMae) else ("token", "zero", "drop")
    if model.mask_mode not in modes:
        refuse(f"model.mask_mode={model.mask_mode!r}: a {type(model).__name__} has {', '.join(modes)}.")


def init_params(model, key):
    """Fresh parameters, as plain arrays.

    Args:
        model: from `create_model`.
        key: a PRNG key.

    Returns:
        The tree that `model.apply({"params": ...}, images)` takes.
    """
    image = jnp.zeros((1, model.image_size, model.image_size, model.channels))
    return nn.meta.unbox(jax.jit(model.init)(key, image)["params"])


def boxed_shapes(model):
    """Shapes of the parameters with the logical name of every axis, without computing anything."""
    image = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, model.channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)["params"]


def num_parameters(model):
    """How many numbers the network learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(nn.meta.unbox(boxed_shapes(model))))
