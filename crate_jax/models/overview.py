"""Every parameter of a network: its shape, its count and what it is in the mathematics.

    U  bases of an encoder layer's subspaces     D  its dictionary
    V  bases of a decoder layer's subspaces      E  its linear map, which undoes ISTA

Pai et al. 2024 (arXiv 2404.02446), section 3; the published counts are its table 1 and the official README's.
"""

import collections
import dataclasses
import math

import flax
from clu.parameter_overview import make_table

from crate_jax.models.classifier import Classifier
from crate_jax.models.encoder import Transformer
from crate_jax.models.layers import crate, vit
from crate_jax.models.registry import boxed_shapes
from crate_jax.models.stacks import STACKS

# millions of parameters, as published
PUBLISHED = {
    "crate_mae_small": 25.4, "crate_mae_base": 44.6, "vit_mae_small": 47.6, "vit_mae_base_paper": 143.8,
    "crate_tiny": 6.09, "crate_small": 13.12, "crate_base": 22.80, "crate_large": 77.64,
    "crate_alpha_base": 72.3, "crate_alpha_large": 253.8,
}  # fmt: skip

_MEANINGS = {
    **crate.MEANINGS,
    **vit.MEANINGS,
    "embedding_kernel": "a patch's pixels to a token",
    "decoder_embedding_kernel": "the encoder's tokens to the decoder's width",
    "class_token": "the token that stands for the image",
    "mask_token": "stands where a patch was removed",
    "position_table": "positions of the patches, learned",
    "patch_norm": "LayerNorm of a patch's pixels",
    "embedding_norm": "LayerNorm of the tokens before positions",
    "encoder_norm": "LayerNorm after the last encoder layer",
    "decoder_norm": "LayerNorm after the last decoder layer",
    "head_kernel": "{head}",
    "_bias": "",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter, or the same one of every layer of a stack."""

    path: str  # such as "encoder/compression/attention/subspaces"
    shape: tuple  # of one layer's
    axes: tuple  # the logical name of each axis (`models.layout`)
    layers: int  # how many there are
    meaning: str  # what it is in the mathematics
    sharded: tuple = ()  # the mesh axis of each axis, where they are known

    @property
    def size(self):
        """Numbers in all layers."""
        return self.layers * math.prod(self.shape)


def parameter_rows(model):
    """A list of `Row`, one per parameter, in the order in which an image meets them; layers of a stack share a row."""
    rows = []
    for path, boxed in flax.traverse_util.flatten_dict(boxed_shapes(model), sep="/").items():
        shape, axes = tuple(boxed.value.shape), tuple(name or "-" for name in boxed.names)
        layers = 1
        if path.partition("/")[0] in STACKS:
            (layers, *shape), axes = shape, axes[1:]
        rows.append(Row(path, tuple(shape), axes, layers, meaning(model, path)))
    return sorted(rows, key=lambda row: _order(row.path))


_STAGES = (
    "patch_norm", "embedding_kernel", "embedding_bias", "embedding_norm", "class_token", "mask_token", "position",
    "encoder/", "encoder_norm", "decoder_embedding", "decoder/", "decoder_norm", "head",
)  # fmt: skip
_STEPS = (
    "compression", "linear", "attention", "qkv", "output", "sparsification", "expansion", "mlp_norm", "up", "down",
)  # fmt: skip


def _order(path):
    """Stage, then step of the layer, then matrices before what is added to them."""
    last = path.rpartition("/")[2]
    stage = next(number for number, stage in enumerate(_STAGES) if path.startswith(stage))
    step = next((number for number, step in enumerate(_STEPS) if f"/{step}" in path), -1)
    late = last.endswith("bias") + 2 * last.startswith("output")
    return stage, step, "norm" not in path, late, path


def meaning(model, path):
    """What a parameter is."""
    decoder = path.startswith("decoder/")
    heads = (getattr(model, "decoder_num_heads", None) if decoder else None) or model.num_heads
    compression = None if isinstance(model, Transformer) else model.compression
    words = {
        "space": "V" if decoder else "U",
        "heads": heads,
        "size": model.width // heads,
        "queries": "; query, key, value" if compression == "mssa" else "",
        "compression": f"{'expansion' if decoder else 'compression'} ({compression})" if compression else "attention",
        "sparsification": f"sparsification ({getattr(model, 'sparsification', None)})",
        "head": "a token to class scores" if isinstance(model, Classifier) else "a token to its patch's pixels",
    }
    keys = sorted(_MEANINGS, key=len, reverse=True)
    key = next(key for key in keys if path.endswith(key) or path.rpartition("/")[0].endswith(key))
    return _MEANINGS[key].format(**words)


def blocks_of(rows):
    """Numbers by block: embedding, encoder, decoder, head; each a name and a count."""
    blocks = collections.Counter()
    for row in rows:
        first = row.path.partition("/")[0].partition("_")[0]
        blocks[first if first in ("encoder", "decoder", "head") else "embedding"] += row.size
    return blocks


def table_text(rows, split=None):
    """The rows as text; with `split`, a function from a logical axis name to a mesh axis name, how they are sharded."""
    if split is not None:
        rows = [dataclasses.replace(row, sharded=tuple(split(axis) or "-" for axis in row.axes)) for row in rows]

    def cell(value):
        if isinstance(value, tuple):
            return ", ".join(map(str, value))
        return f"{value:,}" if isinstance(value, int) else value

    columns = ["path", "layers", "shape", "size", "sharded" if split else "axes", "meaning"]
    return make_table(rows, column_names=columns, value_formatter=cell)
