"""Other forms of the same networks, read under the names of the official PyTorch code.

transformers' ViTMAE     vit.encoder.layer.N.attention.attention.query.weight (or vit.layers.N.attention.q_proj)
                         Meta's: blocks.N.attn.qkv.weight, with query, key and value in one matrix
CRATE-alpha in Flax      Transformer/encoderblock_N/MultiHeadDotProductSubspaceAttention_0/proj/kernel (`.npz`)
                         its PyTorch port: transformer.layers.N.0.fn.qkv.weight
"""

import dataclasses
import math
import re
from collections.abc import Callable

import numpy as np

from crate_jax.errors import UserError
from crate_jax.interop.tensor_files import Source

_VIT_MAE = (  # transformers' name to Meta's, applied in order
    (r"^vit\.embeddings\.cls_token$", "cls_token"),
    (r"^vit\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^vit\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^vit\.layernorm\.", "norm."),
    (r"^vit\.(encoder\.layer|layers)\.", "blocks."),
    (r"^decoder\.decoder_layers\.", "decoder_blocks."),
    (r"^decoder\.", ""),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.([qkv])_proj\.", lambda match: f".attn.{ {'q': 'query', 'k': 'key', 'v': 'value'}[match[1]] }."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)
_ALPHA = (  # CRATE-alpha's Flax name, the port's name, how the array changes
    ("embedding/kernel", "conv1.weight", "patches"),
    ("embedding/bias", "conv1.bias", "same"),
    ("cls", "cls_token", "same"),
    ("pos_embedding", "pos_embedding", "same"),
    ("encoder_norm/scale", "mlp_head.0.weight", "same"),
    ("encoder_norm/bias", "mlp_head.0.bias", "same"),
    ("head/kernel", "mlp_head.1.weight", "matrix"),
    ("head/bias", "mlp_head.1.bias", "same"),
)
_ALPHA_LAYER = (
    ("LayerNorm_0/scale", "0.norm.weight", "same"),
    ("LayerNorm_0/bias", "0.norm.bias", "same"),
    ("MultiHeadDotProductSubspaceAttention_0/proj/kernel", "0.fn.qkv.weight", "heads"),
    ("MultiHeadDotProductSubspaceAttention_0/out/kernel", "0.fn.to_out.0.weight", "heads"),
    ("LayerNorm_1/scale", "1.norm.weight", "same"),
    ("LayerNorm_1/bias", "1.norm.bias", "same"),
    ("OvercompleteISTABlock_0/D", "1.fn.D", "same"),
    ("OvercompleteISTABlock_0/D1", "1.fn.D1", "same"),
)


def _matrix(array):
    """A Flax kernel with all its input axes, then its output axes, as PyTorch's out x in; D is the longest side."""
    width = max(array.shape[0], array.shape[-1])
    square = array.reshape(width, -1) if array.shape[0] == width else array.reshape(-1, width)
    return np.swapaxes(square, 0, 1)


_CHANGES = {
    "same": lambda array: array,
    "matrix": lambda array: np.swapaxes(array, 0, 1),
    "heads": _matrix,
    "patches": lambda array: array.transpose(3, 2, 0, 1),
}


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A tensor under its official name: the file's tensors that it is made of, its shape, and how it is made."""

    names: tuple
    shape: tuple
    make: Callable


class Renamed(Source):
    """A file under other names.

    Args:
        source: the file.
        tensors: official name to `_Tensor`.
    """

    def __init__(self, source, tensors):
        super().__init__(source.path, {name: tensor.shape for name, tensor in tensors.items()}, source.description)
        self._source, self._tensors = source, tensors

    def _read(self, name):
        tensor = self._tensors[name]
        return tensor.make(*(self._source.read(part) for part in tensor.names))


def official_names(source):
    """The same file under the official code's names, or the file itself where it has them already.

    Args:
        source: from `tensor_files.open_tensors`.
    """
    if any(name.startswith("vit.embeddings.") for name in source.shapes):
        return Renamed(source, _vit_mae(source))
    bare = {re.sub(r"^(params|opt/target)/", "", name): name for name in source.shapes}
    if any(name.startswith("Transformer/encoderblock_0/OvercompleteISTABlock_0/") for name in bare):
        return Renamed(source, _crate_alpha(source, bare))
    return source


def _vit_mae(source):
    tensors, fused = {}, {}
    for name, shape in source.shapes.items():
        official = name
        for pattern, replacement in _VIT_MAE:
            official = re.sub(pattern, replacement, official)
        part = re.search(r"\.attn\.(query|key|value)\.", official)
        if part:
            fused.setdefault(official.replace(f".{part[1]}.", ".qkv."), {})[part[1]] = name
        else:
            tensors[official] = _Tensor((name,), tuple(shape), lambda array: array)
    for official, parts in fused.items():
        missing = [part for part in ("query", "key", "value") if part not in parts]
        if missing:
            raise UserError(f"{source.path}: {official} lacks its {missing[0]}; fetch the file again.")
        names = tuple(parts[part] for part in ("query", "key", "value"))
        rows, *rest = source.shapes[names[0]]
        tensors[official] = _Tensor(names, (3 * rows, *rest), lambda *parts: np.concatenate(parts))
    return tensors


def _crate_alpha(source, bare):
    names = {theirs: (ours, change) for theirs, ours, change in _ALPHA}
    depth = len({name.split("/")[1] for name in bare if name.startswith("Transformer/encoderblock_")})
    for layer in range(depth):
        for theirs, ours, change in _ALPHA_LAYER:
            names[f"Transformer/encoderblock_{layer}/{theirs}"] = f"transformer.layers.{layer}.{ours}", change
    tensors = {}
    for name, inside in bare.items():
        if name not in names:
            raise UserError(f"{source.path}: array {inside} belongs to no CRATE-alpha classifier; is it a CLIPA file?")
        official, change = names[name]
        shape = tuple(source.shapes[inside])
        if change == "heads":
            width = max(shape[0], shape[-1])
            shape = (math.prod(shape) // width, width) if shape[0] == width else (width, math.prod(shape) // width)
        elif change != "same":
            shape = tuple(shape[axis] for axis in ((1, 0) if change == "matrix" else (3, 2, 0, 1)))
        tensors[official] = _Tensor((inside,), shape, _CHANGES[change])
    return tensors
