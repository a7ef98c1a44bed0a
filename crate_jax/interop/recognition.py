"""Which network a state dict belongs to: told by its tensors' names and shapes.

What no shape holds (heads, lambda) follows from the width where an official network has it, and can always be given.
"""

import dataclasses
import logging
import math
import re

from crate_jax.config import check_leaf
from crate_jax.errors import UserError
from crate_jax.models.registry import create_model
from crate_jax.models.sizes import FAMILIES, NETWORKS
from crate_jax.operators.patches import image_shape

# Ma-Lab-Berkeley/CRATE and facebookresearch/mae: width to heads
HEADS = {192: 3, 384: 6, 576: 12, 768: 12, 1024: 16, 1280: 16}
MAE_DECODER_HEADS = 16

SIGNATURES = {
    "crate_mae": ("blocks.0.layers.0.0.fn.qkv.weight", "patch_embed.proj.weight", "decoder_pred.weight"),
    "crate_alpha": ("transformer.layers.0.1.fn.D1", "conv1.weight"),
    "crate": ("transformer.layers.0.0.fn.qkv.weight", "to_patch_embedding.2.weight"),
    "vit_classifier": ("blocks.0.attn.qkv.weight", "patch_embed.proj.weight", "head.weight"),
    "vit_mae": ("blocks.0.attn.qkv.weight", "patch_embed.proj.weight"),
}


def recognise(source, given):
    """The network that a file belongs to.

    Args:
        source: from `tensor_files.open_tensors`.
        given: attributes that the caller sets; they are not inferred.

    Returns:
        (name, overrides) for `create_model`.

    Raises:
        UserError: the tensors are of no network known here, or something must be given.
    """
    if source.description:
        return described(source.description, given)
    shapes = source.shapes
    family = next((name for name, keys in SIGNATURES.items() if all(key in shapes for key in keys)), None)
    if family is None:
        refuse_stranger(source)
    settings = _READERS[family](source, given)
    _say_assumptions(source, family, settings, given)
    if given.get("image_size") and "table_image_size" not in given and settings.get("image_size"):
        settings["table_image_size"] = settings["image_size"]  # the official code resizes the table that it has
    settings.update(given)
    if settings.get("table_image_size") == settings.get("image_size"):
        settings.pop("table_image_size", None)
    for key in ("num_heads", "decoder_num_heads"):
        if settings.get(key, 1) is None:
            width = settings["decoder_width" if key.startswith("decoder") else "width"]
            raise UserError(f"{source.path}: no official network is {width} wide; say {key}= (it is in no tensor).")
    return closest_name(family, settings)


def described(description, given):
    """The network that a description of ours says, with `given` attributes: (name, overrides) for `create_model`.

    At another image size its position table is the one that it was trained with, resized.
    """
    name, saved = description["name"], description["overrides"]
    if given.get("image_size") and "table_image_size" not in given:
        own, size = create_model(name, **saved), check_leaf("model.image_size", given["image_size"])
        table = own.table_image_size or own.image_size
        given = {**given, "table_image_size": None if size == table else table}
    return name, {**saved, **given}


def description_for(checkpoint):
    """What our own files say of their network, as `described` reads it."""
    said = {"name": checkpoint.name, "overrides": checkpoint.overrides}
    return said | ({"trained_with": checkpoint.trained_with} if checkpoint.trained_with else {})


def _say_assumptions(source, family, settings, given):
    """Warns of what no tensor says and the width suggests: another value computes something else without an error."""
    assumed = {key: settings[key] for key in ("num_heads", "decoder_num_heads") if settings.get(key) not in (None, 1)}
    if family in ("crate_mae", "crate", "crate_alpha"):
        default = NETWORKS[closest_name(family, settings)[0]][0].__dataclass_fields__["lambda_"].default
        assumed["lambda_"] = {"crate_alpha": 0.1}.get(family, default)
    assumed = {key: value for key, value in assumed.items() if key not in given}
    if assumed:
        logging.warning(
            "%s does not say %s: assumed from the official network of this width. Others: %s (in commands "
            "--config.model.%s=).", source.path, " and ".join(f"{key}={value}" for key, value in assumed.items()),
            ", ".join(f"{key}=" for key in assumed), next(iter(assumed)),
        )  # fmt: skip


def refuse_stranger(source):
    """Says what a file of another network looks like."""
    first = ", ".join(list(source.shapes)[:3]) or "nothing"
    if any("/" in name for name in source.shapes):
        raise UserError(f"{source.path} is the inside of a converted folder; give the folder that it is in.")
    raise UserError(
        f"{source.path} is of no CRATE-MAE, CRATE, ViT-MAE or ViT: it begins with {first}, "
        f"and has no tensor {SIGNATURES['crate_mae'][0]} or {SIGNATURES['vit_mae'][0]}."
    )


def _shape(source, name, dimensions):
    shape = source.shapes.get(name)
    if shape is None:
        raise UserError(f"{source.path}: tensor {name} is missing.")
    if len(shape) != dimensions:
        raise UserError(f"{source.path}: tensor {name} has shape {shape}, not {dimensions} axes.")
    return shape


def _count(source, prefix):
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return len({match[1] for match in map(pattern.match, source.shapes) if match})


def _image_size(source, table, patch_size, given):
    """Of a position table: a square, else what is given, where it has as many patches."""
    patches, size = _shape(source, table, 3)[1] - 1, given.get("image_size")
    side = math.isqrt(patches)
    if side**2 == patches:
        return side * patch_size
    if size and math.prod(one // patch_size for one in image_shape(check_leaf("model.image_size", size))) == patches:
        return size
    raise UserError(
        f"{source.path}: tensor {table} has {patches + 1} rows, which is no square of patches and one; say image_size= "
        "(--config.model.image_size=HEIGHTxWIDTH in commands)."
    )


def _convolution(source):
    width, channels, patch_size, _ = _shape(source, "patch_embed.proj.weight", 4)
    return {
        "width": width, "channels": channels, "patch_size": patch_size, "depth": _count(source, "blocks"),
        "num_heads": HEADS.get(width),
    }  # fmt: skip


def _crate_mae(source, given):
    settings = _convolution(source)
    settings["decoder_depth"] = _count(source, "decoder_blocks")
    table = "decoder_pos_embed" if "decoder_pos_embed" in source.shapes else "pos_embed"
    if table in source.shapes:
        settings["image_size"] = _image_size(source, table, settings["patch_size"], given)
    if "blocks.0.layers.0.0.fn.to_out.0.weight" not in source.shapes:
        settings["num_heads"] = 1  # a single head of full width has no output projection
    return settings


def _crate(source, given):
    width, pixels = _shape(source, "to_patch_embedding.2.weight", 2)
    patch_size = math.isqrt(pixels // 3)
    if 3 * patch_size**2 != pixels:
        raise UserError(
            f"{source.path}: tensor to_patch_embedding.2.weight takes {pixels} numbers: no square patch in colour."
        )
    return {
        "width": width, "patch_size": patch_size, "depth": _count(source, "transformer.layers"),
        "num_heads": HEADS.get(width), "num_classes": _shape(source, "mlp_head.1.weight", 2)[0],
        "image_size": _image_size(source, "pos_embedding", patch_size, given),
    }  # fmt: skip


def _crate_alpha(source, given):
    width, channels, patch_size, _ = _shape(source, "conv1.weight", 4)
    return {
        "width": width, "channels": channels, "patch_size": patch_size, "depth": _count(source, "transformer.layers"),
        "num_heads": HEADS.get(width), "num_classes": _shape(source, "mlp_head.1.weight", 2)[0],
        "image_size": _image_size(source, "pos_embedding", patch_size, given),
        "expansion": _shape(source, "transformer.layers.0.1.fn.D1", 2)[1] // width,
    }  # fmt: skip


def _vit_mae(source, given):
    settings = _convolution(source)
    if "pos_embed" in source.shapes:
        settings["image_size"] = _image_size(source, "pos_embed", settings["patch_size"], given)
    if "decoder_pred.weight" in source.shapes:
        inner = _shape(source, "decoder_pred.weight", 2)[1]
        settings["decoder_width"] = inner
        settings["decoder_depth"] = _count(source, "decoder_blocks")
        settings["decoder_num_heads"] = MAE_DECODER_HEADS if inner in (512, *HEADS) else None
    else:
        settings["decoder_width"], settings["decoder_depth"], settings["decoder_num_heads"] = 512, 8, MAE_DECODER_HEADS
    return settings


def _vit_classifier(source, given):
    settings = _convolution(source)
    settings["image_size"] = _image_size(source, "pos_embed", settings["patch_size"], given)
    settings["num_classes"] = _shape(source, "head.weight", 2)[0]
    settings["pooling"] = "mean" if "fc_norm.weight" in source.shapes else "cls"
    settings["learned_positions"] = True
    return settings


_READERS = {
    "crate_mae": _crate_mae, "crate": _crate, "crate_alpha": _crate_alpha, "vit_mae": _vit_mae,
    "vit_classifier": _vit_classifier,
}  # fmt: skip


def closest_name(family, settings):
    """The named network that differs least, and how it differs.

    Args:
        family: a key of `models.sizes.FAMILIES`.
        settings: attributes of the network.

    Returns:
        (name, overrides).
    """
    cls, _, sizes = FAMILIES[family]
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    best = None
    for size in sizes:
        name = f"{family}_{size}"
        named = {**defaults, **NETWORKS[name][1]}
        overrides = {key: value for key, value in settings.items() if named.get(key, object()) != value}
        if best is None or len(overrides) < len(best[1]):
            best = name, overrides
    return best
