"""Where each subspace looks: softmax(scale w_k w_k^T), and the codes w = U^T LN(z) that it is made of.

One matrix is query, key and value, so w is the "key" that the official scripts show, and its principal components
colour the parts of an image (`principal_components`).
"""

import functools
import numbers

import jax

from crate_jax.analysis.layerwise import attention_weights
from crate_jax.errors import UserError
from crate_jax.evaluation.features import check_images
from crate_jax.models.trace import trace


def layer_name(model, layer):
    """ "encoder_03" for 3.

    Raises:
        UserError: the encoder has no such layer.
    """
    if not isinstance(layer, numbers.Integral) or isinstance(layer, bool) or not 0 <= layer < model.depth:
        raise UserError(f"layer={layer!r}: the encoder has layers 0 to {model.depth - 1}.")
    return f"encoder_{layer:02d}"


def layer_codes(layers, name):
    """The codes of a traced layer, B x T x D; a ViT's keys.

    Raises:
        UserError: the layer has no attention.
    """
    layer = layers[name]
    if "codes" in layer:
        return layer["codes"]
    if "key" not in layer:
        raise UserError(f"{name} has no attention, so there are no codes.")
    return layer["key"].reshape(*layer["key"].shape[:2], -1)


@functools.partial(jax.jit, static_argnames=("model", "name"))
def _attention(model, params, images_BxHxWxC, name):
    return attention_weights(model, name, trace(model, params, images_BxHxWxC)[1][name])


@functools.partial(jax.jit, static_argnames=("model", "name"))
def _codes(model, params, images_BxHxWxC, name):
    return layer_codes(trace(model, params, images_BxHxWxC)[1], name)


def attention_maps(model, params, images_BxHxWxC, layer):
    """Attention of an encoder layer on whole images (no mask).

    Args:
        model: from `create_model`.
        params: its parameters.
        images_BxHxWxC: normalised; any resolution that the patch divides (positions are resized).
        layer: from 0; the official scripts take 10 of 12.

    Returns:
        attention_BxKxTxT, f32: [b, k, n, m] is the weight that token n gives to token m in subspace k; the class
        token is number 0, patch (row, column) number 1 + row * columns + column.

    Raises:
        UserError: no such layer, no attention, or images that do not fit.
    """
    check_images(model, images_BxHxWxC)
    return _attention(model, params, images_BxHxWxC, layer_name(model, layer))


def subspace_codes(model, params, images_BxHxWxC, layer):
    """U^T LN(z) of an encoder layer: the tokens' coordinates in all subspaces, side by side. A ViT's keys.

    Args and errors as `attention_maps`.

    Returns:
        codes_BxTxD: entries k P to (k + 1) P are those in subspace k; the class token comes first.
    """
    check_images(model, images_BxHxWxC)
    return _codes(model, params, images_BxHxWxC, layer_name(model, layer))
