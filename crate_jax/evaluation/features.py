"""Features of a frozen network, by one name everywhere: POOLING@LAYER, such as `cells@encoder_01`, `cls@last`.

    cls     the class token
    mean    the mean of the patch tokens
    cells   the patch grid cut into 4 x 4 cells (3 x 3 if it has fewer than 8 rows), each cell's mean, concatenated

Layers are `encoder_00` (the first) and so on: their output; `last` is after the encoder's final norm. Nothing is
masked.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.errors import UserError, names_arguments
from crate_jax.models.trace import trace
from crate_jax.operators.patches import grid_of, image_shape
from crate_jax.training.objective import normalise

POOLINGS = ("cls", "mean", "cells")
RAW = "raw pixels"  # in the place of a name: the images themselves
RAW_SIDE = 32  # their pixels at most: more would cost gigabytes and tell no more
PIXELS = 16  # images without a value below 0 and with one above this are pixels, not normalised


def parse_features(name, depth):
    """A name into (pooling, layer); the layer is `last` or such as `encoder_03`.

    Raises:
        UserError: no such pooling, or no such layer in a network of `depth` encoder layers.
    """
    pooling, at, layer = (name if isinstance(name, str) else repr(name)).partition("@")
    if pooling in POOLINGS and re.fullmatch("[0-9]{1,4}", layer):
        new = f"{pooling}@encoder_{max(int(layer) - 1, 0):02d}"
        raise UserError(f"--features={name}: layers are counted from 0 and named; write {new} for what {name} was.")
    if (
        pooling not in POOLINGS
        or not at
        or not (layer == "last" or re.fullmatch("encoder_(0[0-9]|[1-9][0-9]{1,3})", layer))
    ):
        raise UserError(
            f"--features={name}: write POOLING@LAYER with a pooling of {', '.join(POOLINGS)} and a layer such as "
            f"encoder_01 or last, as in cells@encoder_01."
        )
    if layer != "last" and int(layer.removeprefix("encoder_")) >= depth:
        raise UserError(f"--features={name}: the encoder has layers encoder_00 to encoder_{depth - 1:02d}, and last.")
    return pooling, layer


def candidate_names(depth, poolings=POOLINGS, most=6):
    """Names of every pooling at up to `most` layers, evenly spaced; the deepest is `last`."""
    count = min(most, depth)
    layers = sorted({round(depth * (i + 1) / count) - 1 for i in range(count)})
    names = [*(f"encoder_{layer:02d}" for layer in layers[:-1]), "last"]
    return [f"{pooling}@{layer}" for layer in names for pooling in poolings]


def check_images(model, images_BxHxWxC):
    """Refuses images that are not what `preprocess` makes, or that the patch does not divide.

    Raises:
        UserError: no array, integers, values that no normalisation gives, or a shape that does not fit.
    """
    advice = "`preprocess` of crate_jax.from_pretrained(...) makes what the network takes"
    if not isinstance(images_BxHxWxC, jax.Array | np.ndarray):
        raise UserError(f"images are a {type(images_BxHxWxC).__name__}, no array of NumPy or JAX; {advice}.")
    shape, dtype = images_BxHxWxC.shape, images_BxHxWxC.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(f"images of {dtype}: the network takes normalised floats, not pixels; {advice}.")
    if len(shape) != 4 or shape[3] != model.channels:
        raise UserError(f"images of shape {shape}: the network takes B x H x W x {model.channels}; {advice}.")
    if not shape[0]:
        raise UserError("there are no images; give one or more.")
    if shape[1] % model.patch_size or shape[2] % model.patch_size or not shape[1] or not shape[2]:
        raise UserError(
            f"images of {shape[1]} x {shape[2]} pixels are not divisible into patches of {model.patch_size}; {advice}."
        )
    if not isinstance(images_BxHxWxC, jax.core.Tracer):
        low, high = float(jnp.min(images_BxHxWxC)), float(jnp.max(images_BxHxWxC))
        if not (math.isfinite(low) and math.isfinite(high)) or (low >= 0 and high > PIXELS):
            raise UserError(
                f"images with values from {low:g} to {high:g}: the network takes normalised ones; {advice}."
            )


def cell_matrix(size):
    """Averages that cut `size` rows into 4 parts (3 below 8 rows, fewer where there are fewer rows).

    Returns:
        weights_CxR, f32; rows sum to one. Where the parts cannot be equal, the earlier ones are a row larger.
    """
    parts = np.array_split(np.arange(size), min(size, 4 if size >= 8 else 3))
    weights_CxR = np.zeros((len(parts), size), np.float32)
    for cell, rows in enumerate(parts):
        weights_CxR[cell, rows] = 1 / len(rows)
    return weights_CxR


def pool(tokens_BxTxD, pooling, grid):
    """One vector an image.

    Args:
        tokens_BxTxD: class token first, then the patches, row by row.
        pooling: "cls", "mean" or "cells".
        grid: (rows, columns) of patches; T = rows * columns + 1.

    Returns:
        features_BxG, f32; G = D, for cells up to 16 D: cell by cell, row by row.
    """
    tokens_BxTxD = tokens_BxTxD.astype(jnp.float32)
    if pooling == "cls":
        return tokens_BxTxD[:, 0]
    if pooling == "mean":
        return jnp.mean(tokens_BxTxD[:, 1:], 1)
    rows, columns = grid
    patches_BxRxCxD = tokens_BxTxD[:, 1:].reshape(-1, rows, columns, tokens_BxTxD.shape[-1])
    by_row, by_column = cell_matrix(rows), cell_matrix(columns)
    cells = jnp.einsum("ar,bc,Brcd->Babd", by_row, by_column, patches_BxRxCxD, precision="highest")
    return cells.reshape(cells.shape[0], -1)


def feature_length(name, model):
    """G of features_BxG, by POOLING@LAYER or RAW."""
    if name == RAW:
        return math.prod(_raw_size(model)) * model.channels
    pooling, _ = parse_features(name, model.depth)
    cells = math.prod(len(cell_matrix(side // model.patch_size)) for side in image_shape(model.image_size))
    return model.width * (cells if pooling == "cells" else 1)


def _raw_size(model):
    return tuple(min(side, RAW_SIDE) for side in image_shape(model.image_size))


def exact_products(model):
    """A context in which products of a float32 network are float32; on TPU they would be made of bfloat16 passes."""
    return jax.default_matmul_precision("highest" if jnp.dtype(model.dtype) == jnp.float32 else "default")


@functools.partial(jax.jit, static_argnames=("model", "names", "statistics"))
def several_features(model, params, images_BxHxWxC, names, statistics=None):
    """Several features from one pass: a dictionary from name to features_BxG, f32.

    Args:
        model, params: as of `extract_features`.
        images_BxHxWxC: normalised; or uint8, with `statistics`.
        names: a tuple of POOLING@LAYER and RAW.
        statistics: (mean, std) that the network takes images normalised with.

    Raises:
        UserError: see `parse_features`.
    """
    parsed = {name: parse_features(name, model.depth) for name in names if name != RAW}
    if statistics is not None:
        images_BxHxWxC = normalise(images_BxHxWxC, *statistics)
    grid = grid_of(images_BxHxWxC.shape[1:3], model.patch_size)
    with exact_products(model):
        output, layers = trace(model, params, images_BxHxWxC)

    def tokens(layer):
        return output.latent_BxTxD if layer == "last" else layers[layer]["output"]

    found = {name: pool(tokens(layer), pooling, grid) for name, (pooling, layer) in parsed.items()}
    if RAW in names:
        small = (len(images_BxHxWxC), *_raw_size(model), model.channels)
        found[RAW] = jax.image.resize(images_BxHxWxC, small, "linear").reshape(len(images_BxHxWxC), -1)
    return found


@names_arguments
def extract_features(model, params, images_BxHxWxC, features="mean@last"):
    """Features of images.

    Args:
        model, params: from `create_model` and `init_params`, or of a run.
        images_BxHxWxC: normalised as in training (`Pretrained.preprocess`); any size that the patch divides.
        features: POOLING@LAYER, such as "mean@last" or "cells@encoder_01".

    Returns:
        features_BxG, f32.

    Raises:
        UserError: no such pooling or layer; images of integers or of a shape that does not fit.
    """
    check_images(model, images_BxHxWxC)
    parse_features(features, model.depth)
    return several_features(model, params, jnp.asarray(images_BxHxWxC), (features,))[features]
