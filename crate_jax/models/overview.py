"""A network explained: every parameter, what it is in the mathematics, and how many numbers it holds.

    U  bases of an encoder layer's subspaces     D  its dictionary
    V  bases of a decoder layer's subspaces      E  its linear map, which undoes ISTA

Pai et al. 2024 (arXiv 2404.02446), section 3; the published counts are its table 1 and the official README's.
"""

import dataclasses
import math

import flax

from crate_jax.models.classifier import Classifier, VitClassifier
from crate_jax.models.flops import flops_per_image
from crate_jax.models.masked_autoencoder import VitMae
from crate_jax.models.registry import boxed_shapes

# millions of parameters, as published
PUBLISHED = {
    "crate_mae_small": 25.4, "crate_mae_base": 44.6, "vit_mae_small": 47.6, "vit_mae_base_paper": 143.8,
    "crate_tiny": 6.09, "crate_small": 13.12, "crate_base": 22.80, "crate_large": 77.64,
}  # fmt: skip

_MEANINGS = {
    "attention/subspaces": "{space} = [{space}_1 .. {space}_K]: K={heads} bases of {size} columns; query, key, value",
    "attention/output_kernel": "to_out: learned in the place of {space}, which the paper has there",
    "attention/output_bias": "to_out's bias",
    "attention_norm": "LayerNorm before {attention}",
    "sparsification/dictionary": "D: ISTA's dictionary, atoms in columns",
    "ista_norm": "LayerNorm before ISTA",
    "linear_kernel": "E: the linear map that undoes ISTA",
    "linear_norm": "LayerNorm before E",
    "embedding_kernel": "a patch's pixels to a token",
    "embedding_bias": "",
    "decoder_embedding_kernel": "the encoder's tokens to the decoder's width",
    "decoder_embedding_bias": "",
    "class_token": "the token that stands for the image",
    "mask_token": "stands where a patch was removed",
    "position_table": "where each patch is, learned",
    "patch_norm": "LayerNorm of a patch's pixels",
    "embedding_norm": "LayerNorm of the tokens before positions",
    "encoder_norm": "LayerNorm after the last encoder layer",
    "decoder_norm": "LayerNorm after the last decoder layer",
    "head_kernel": "{head}",
    "head_bias": "",
    "qkv_kernel": "query, key and value side by side: three matrices where CRATE has one",
    "qkv_bias": "",
    "output_kernel": "attention's output projection",
    "output_bias": "",
    "up_kernel": "the MLP's inside, four times the width",
    "up_bias": "",
    "down_kernel": "and back",
    "down_bias": "",
    "mlp_norm": "LayerNorm before the MLP",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter, or the same one of several equal layers.

    Attributes:
        path: with "encoder_*" for all layers of the encoder.
        shape: of one.
        axes: the logical name of each axis (`models.layout`).
        layers: how many there are.
        meaning: what it is in the mathematics.
    """

    path: str
    shape: tuple
    axes: tuple
    layers: int
    meaning: str

    @property
    def size(self):
        """Numbers in all layers."""
        return self.layers * math.prod(self.shape)


def parameter_rows(model):
    """Every parameter, layers of a stack folded into one.

    Args:
        model: from `create_model`.

    Returns:
        A list of `Row`, in the order in which an image meets them.
    """
    flat = flax.traverse_util.flatten_dict(boxed_shapes(model), sep="/")
    folded = {}
    for path, boxed in flat.items():
        owner, _, rest = path.partition("/")
        stack, _, number = owner.rpartition("_")
        path = f"{stack}_*/{rest}" if number.isdigit() else path
        leaf = boxed.value if hasattr(boxed, "names") else boxed
        axes = tuple(name or "-" for name in getattr(boxed, "names", (None,) * len(leaf.shape)))
        layers = folded[path].layers + 1 if path in folded else 1
        folded[path] = Row(path, tuple(leaf.shape), axes, layers, meaning(model, path))
    return sorted(folded.values(), key=lambda row: _order(row.path))


def _order(path):
    """Stage, then step of the layer, then matrices before what is added to them."""
    steps = (
        "compression",
        "linear",
        "attention",
        "qkv",
        "output",
        "sparsification",
        "expansion",
        "mlp_norm",
        "up",
        "down",
    )
    last = path.rpartition("/")[2]
    inner = next((number for number, step in enumerate(steps) if f"/{step}" in path), -1)
    late = last.endswith("bias") + 2 * last.startswith("output")
    return _stage(path), inner, "norm" not in path, late, path


def _stage(path):
    stages = (
        "patch_norm", "embedding_kernel", "embedding_bias", "embedding_norm", "class_token", "mask_token", "position",
        "encoder_*", "encoder_norm", "decoder_embedding", "decoder_*", "decoder_norm", "head",
    )  # fmt: skip
    return next(number for number, stage in enumerate(stages) if path.startswith(stage))


def meaning(model, path):
    """What a parameter is."""
    decoder = path.startswith("decoder_*")
    heads = (getattr(model, "decoder_num_heads", None) if decoder else None) or model.num_heads
    words = {
        "space": "V" if decoder else "U",
        "heads": heads,
        "size": model.width // heads,
        "attention": "attention" if isinstance(model, VitMae | VitClassifier) else "MSSA",
        "head": "a token to class scores" if isinstance(model, Classifier) else "a token to its patch's pixels",
    }
    keys = sorted(_MEANINGS, key=len, reverse=True)
    key = next(key for key in keys if path.endswith(key) or path.rpartition("/")[0].endswith(key))
    return _MEANINGS[key].format(**words)


def blocks_of(rows):
    """Numbers by block: embedding, encoder, decoder, head; each a name and a count."""
    blocks = {}
    for row in rows:
        first = row.path.partition("_")[0]
        name = first if first in ("encoder", "decoder", "head") else "embedding"
        blocks[name] = blocks.get(name, 0) + row.size
    return blocks


def arithmetic(model):
    """GFLOP of one image, multiply-adds counted twice: {"training": ..., "inference": ...}."""
    return {
        "training": flops_per_image(model) / 1e9,
        "inference": flops_per_image(model, training=False) / 1e9,
    }


def table_text(rows, split=None):
    """The rows as text.

    Args:
        rows: of `parameter_rows`.
        split: a function from logical axis name to mesh axis name or None; None prints the logical names.
    """
    lines = []
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        where = ", ".join(row.axes if split is None else (split(axis) or "-" for axis in row.axes))
        layers = f"{row.layers} x" if row.layers > 1 else ""
        lines.append((row.path, layers, shape, f"{row.size:,}", where, row.meaning))
    heads = ("parameter", "layers", "shape", "numbers", "logical axes" if split is None else "split over", "what it is")
    lines.insert(0, heads)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = "<><><<"  # numbers to the right
    return "\n".join(
        "  ".join(f"{cell:{side}{w}}" for cell, side, w in zip(line, aligned, widths, strict=True)).rstrip()
        for line in lines
    )


def total(rows):
    """All numbers."""
    return sum(row.size for row in rows)
