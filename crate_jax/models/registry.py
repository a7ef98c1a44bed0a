"""A network by its name, with any attribute overridden; what cannot be built raises `UserError`."""

import dataclasses
import functools
import hashlib
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.config import check_leaf
from crate_jax.config_schema import LEAVES
from crate_jax.errors import UserError, nearest
from crate_jax.models.encoder import WhiteBox
from crate_jax.models.masked_autoencoder import CrateMae, VitMae
from crate_jax.models.sizes import NETWORKS
from crate_jax.operators.masking import num_visible
from crate_jax.operators.patches import image_shape
from crate_jax.operators.subspace_attention import cudnn_refuses


def model_class(name):
    """The class that a network's name stands for.

    Raises:
        UserError: no network has this name.
    """
    if not isinstance(name, str) or name not in NETWORKS:
        raise UserError(f"model.name={name!r}: there is no such network{nearest(name, NETWORKS)}")
    return NETWORKS[name][0]


def attributes(name):
    """Names of the attributes that `create_model` takes for a network."""
    return {field.name for field in dataclasses.fields(model_class(name))} - {"parent", "name"}


def for_platform(model, platform, devices=1, device=None):
    """The network with the attention kernel that "auto" stands for on this platform (`benchmarks/README.md`).

    On a TPU plain XLA moves less and saves less where a white box's scores are recomputed; a CPU computes MSSA faster
    image by image, on one device; an NVIDIA GPU is faster with cuDNN's flash attention, in bfloat16. Pallas kernels are
    never chosen here: they have not been timed on a TPU.

    Args:
        model: a network.
        platform: "cpu", "tpu" or "gpu".
        devices: their number.
        device: one of them; None: cuDNN is not considered.
    """
    if getattr(model, "attention_kernel", None) != "auto":
        return model
    white = isinstance(model, WhiteBox)
    if platform == "tpu" and white and model.remat == "none":  # else scores exist once, and are recomputed anyway
        return model.clone(attention_kernel="recompute")
    if platform == "cpu" and devices == 1 and white:
        return model.clone(attention_kernel="image_by_image")
    if platform == "gpu" and devices == 1 and device is not None and (not white or model.compression == "mssa"):
        decoder = [getattr(model, f"decoder_{key}", None) or getattr(model, key) for key in ("width", "num_heads")]
        sizes = (model.width // model.num_heads, decoder[0] // decoder[1])
        if not any(cudnn_refuses(model.dtype, size, device) for size in sizes):
            return model.clone(attention_kernel="cudnn")
    return model


def create_model(name, **overrides):
    """A Linen module.

    Args:
        name: such as "crate_mae_base" or "vit_mae_large" (`models.sizes.NETWORKS`).
        **overrides: any attribute of the module, within the range of the setting `model.*` of its name; None means
            "from the name". `dtype` may be a string.

    Returns:
        `CrateMae`, `VitMae` or a classifier, not yet initialised.

    Raises:
        UserError: an unknown name or attribute, or values that do not go together.
    """
    known, settings = attributes(name), dict(NETWORKS[name][1])
    for key, value in overrides.items():
        if value is None:
            continue
        if key not in known:
            raise UserError(f"model.{key}: {name} has no such setting{nearest(key, known)}")
        checked = isinstance(value, str) if key == "dtype" else f"model.{key}" in LEAVES and key != "channels"
        settings[key] = check_leaf(f"model.{key}", value) if checked else value
    if "dtype" in settings:
        try:
            settings["dtype"] = jnp.dtype(settings["dtype"]).type
        except TypeError:
            raise UserError(f"model.dtype={settings['dtype']}: give float32 or bfloat16.") from None
    model = model_class(name)(**settings)
    check_model(model)
    return model


def check_model(model):
    """Raises UserError for a network that cannot work, naming the settings and a value that would do."""
    for key in ("image_size", "table_image_size"):
        size = getattr(model, key)
        if size is None or not any(side % model.patch_size for side in image_shape(size)):
            continue
        fits = [max(1, round(side / model.patch_size)) * model.patch_size for side in image_shape(size)]
        good, given = ("x".join(dict.fromkeys(map(str, sides))) for sides in (fits, image_shape(size)))
        raise UserError(
            f"model.{key}={given} is not divisible by model.patch_size={model.patch_size}; choose a size that is, "
            f"such as {good}."
        )
    for width_name, heads_name in (("width", "num_heads"), ("decoder_width", "decoder_num_heads")):
        width = getattr(model, width_name, None) or model.width
        heads = getattr(model, heads_name, None) or model.num_heads
        if width % (unit := math.lcm(heads, 4)):
            fits = width // unit * unit or unit
            why = "4, as sine-cosine positions need it" if width % heads == 0 else f"model.{heads_name}={heads}"
            raise UserError(
                f"model.{width_name}={width} is not divisible by {why}; choose a width such as {fits} or {fits + unit}."
            )
    for key in ("width", "num_heads"):
        own = getattr(model, key)
        if isinstance(model, CrateMae) and getattr(model, f"decoder_{key}") not in (None, own):
            raise UserError(f"model.decoder_{key}: a CRATE-MAE's decoder has the encoder's {key}={own}; leave it out.")
    if isinstance(model, WhiteBox):
        _check_layers(model)
    elif model.attention_kernel == "pallas":
        raise UserError("model.attention_kernel='pallas' is for MSSA and CBSA, and a ViT has neither; leave it out.")
    if hasattr(model, "mask_mode"):
        _check_masking(model)


def _check_layers(model):
    own_step = model.compression in ("gradient", "neumann")
    if own_step and (model.attention_scale != "official" or model.compression_step == "convex"):
        raise UserError(
            f"model.compression={model.compression!r} has its own step size: leave model.attention_scale and "
            "model.compression_step unset."
        )
    if own_step and model.output_projection not in ("learned", "tied"):
        raise UserError(
            f"model.compression={model.compression!r} projects by U^T: leave model.output_projection unset."
        )
    if model.attention_scale == "paper" and model.compression_step == "subtract":
        raise UserError("model.attention_scale='paper' is a convex step: leave model.compression_step unset.")
    steps = (model.compression_step, model.attention_scale, model.compression)
    if model.learned_kappa and not {"convex", "paper", "gradient", "neumann"} & set(steps):
        raise UserError("model.learned_kappa needs model.compression_step='convex' or attention_scale='paper'.")
    if model.attention_kernel == "cudnn" and model.compression != "mssa":
        raise UserError(
            f"model.attention_kernel='cudnn' is for MSSA, and model.compression={model.compression!r}; leave it out."
        )
    if model.sparsification == "none" and model.decoder_map == "overcomplete":
        raise UserError("model.decoder_map='overcomplete' mirrors a sparsification that is 'none'; choose 'linear'.")


def _check_masking(model):
    visible = num_visible(model.num_patches, model.mask_ratio)
    if visible < 1:
        raise UserError(
            f"model.mask_ratio={model.mask_ratio} leaves none of {model.num_patches} patches visible; "
            f"choose a smaller ratio or model.patch_size."
        )
    if visible == model.num_patches:
        raise UserError(
            f"model.mask_ratio={model.mask_ratio} removes none of {model.num_patches} patches; choose a larger one."
        )
    if isinstance(model, VitMae) and model.mask_mode != "drop":
        raise UserError(f"model.mask_mode={model.mask_mode!r}: a VitMae has drop.")


def blank_images(model):
    """One image of zeros, of the size that the network was made for."""
    return jnp.zeros((1, *image_shape(model.image_size), model.channels))


@functools.partial(jax.jit, static_argnums=0)
def initial(model, key):
    """Fresh parameters, each with the logical names of its axes.

    Layers are scanned here, so traced once; and jitted, so that a network is traced once for all its shapes, shardings
    and states of a process. Shapes do not depend on kernels, and not every one takes the float32 tokens of this pass.
    """
    plain = {"attention_kernel": "xla"} if hasattr(model, "attention_kernel") else {}
    return model.clone(scan_layers=True, **plain).init(key, blank_images(model))["params"]


def init_params(model, key):
    """Fresh parameters from a PRNG key, as plain arrays: the tree that `model.apply({"params": ...}, images)` takes."""
    return nn.meta.unbox(initial(model, key))


def boxed_shapes(model):
    """Shapes of the parameters with the logical name of every axis, without computing anything."""
    return jax.eval_shape(lambda: initial(model, jax.random.key(0)))


def digest_of(params, beside=""):
    """SHA-256, in hexadecimal digits, of a text and the values of all parameters."""
    digest = hashlib.sha256(beside.encode())
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).data)
    return digest.hexdigest()


def num_parameters(model):
    """How many numbers the network learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(nn.meta.unbox(boxed_shapes(model))))
