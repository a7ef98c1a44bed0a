"""A look inside: what every layer saw and made, by the layer's name."""

import flax


def trace(model, params, images_BxHxWxC, mask_BxN=None):
    """Runs a network and keeps what its layers sow.

    Args:
        model: from `create_model`.
        params: its parameters.
        images_BxHxWxC: normalised.
        mask_BxN: 1 where removed; None: nothing is.

    Returns:
        (output, layers): the network's output, and a dictionary from layer ("encoder_00", ..., "decoder_00", ...) to
        what it holds. Encoder layers: `input`, `normed` (LN(z), what MSSA reads), `codes` (U^T LN(z), B x T x D),
        `compressed` (after the first half), `output`. Decoder layers: `input`, `mapped` (after E), `normed`, `codes`,
        `output`. ViT layers: `input`, `normed`, `query`, `key` (B x T x K x P), `compressed`, `output`. Under `jit`,
        what is not used costs nothing.
    """
    inputs = (images_BxHxWxC,) if mask_BxN is None else (images_BxHxWxC, mask_BxN)  # a classifier takes no mask
    output, sown = model.apply({"params": params}, *inputs, mutable=["intermediates"])
    layers = {}
    for layer, inside in sown["intermediates"].items():
        flat = flax.traverse_util.flatten_dict(inside)
        layers[layer] = {path[-1]: values[0] for path, values in flat.items()}
    return output, layers
