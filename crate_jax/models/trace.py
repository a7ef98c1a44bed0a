"""What every layer of a network computed, by the layer's name."""

from crate_jax.models.stacks import STACKS, layer_name


def trace(model, params, images_BxHxWxC, mask_BxN=None):
    """Runs a network and keeps the intermediate values of its layers.

    Args:
        model: from `create_model`.
        params: its parameters.
        images_BxHxWxC: normalised.
        mask_BxN: 1 where removed; None: nothing is.

    Returns:
        (output, layers): the network's output, and a dictionary from layer ("encoder_00", ..., "decoder_00", ...) to
        its values. Encoder layers: `input`, `normed` (LN(z), what compression reads), `codes` (U^T LN(z), B x T x D),
        `compressed` (after the first half), `sparse_codes` (B x T x A), `output`. Decoder layers: `input`, `mapped`
        (after E), `normed`, `codes`, `output`. ViT layers: `input`, `normed`, `query`, `key` (B x T x K x P),
        `compressed`, `output`. Under `jit`, what is not used costs nothing.
    """
    inputs = (images_BxHxWxC,) if mask_BxN is None else (images_BxHxWxC, mask_BxN)  # a classifier takes no mask
    output, sown = model.apply({"params": params}, *inputs, mutable=["intermediates"])
    layers = {}
    for stack in STACKS:
        for values in sown["intermediates"].get(stack, ()):
            depth = len(next(iter(values.values()), ()))
            for index in range(depth):
                layers[layer_name(stack, index)] = {name: value[index] for name, value in values.items()}
    return output, layers
