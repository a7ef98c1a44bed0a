"""Arithmetic of a network, by formula: matrix products only, a multiply-add counted as two.

The compiler's own count is of no use here: it counts a scanned layer once. What a layer costs stands in its file
(`models.layers`); the backward pass of a product costs twice the product.
"""

from crate_jax.models.classifier import Classifier
from crate_jax.models.encoder import WhiteBox
from crate_jax.models.layers import crate, vit
from crate_jax.models.layers.settings import settings_of
from crate_jax.operators.masking import num_visible


def token_counts(model):
    """(encoder, decoder): tokens of one image in training, class token included."""
    tokens = model.num_patches + 1
    dropped = getattr(model, "mask_mode", None) == "drop"
    return (num_visible(model.num_patches, model.mask_ratio) + 1 if dropped else tokens), tokens


def layer_costs(model):
    """[(number of layers, `Cost` of one layer)] of the encoder and, where there is one, the decoder."""

    def cost(width, heads, tokens, decoder=False):
        if isinstance(model, WhiteBox):
            return crate.cost(settings_of(model), heads, width, tokens, decoder=decoder)
        return vit.cost(width, tokens, model.attention_kernel)

    encoder_tokens, decoder_tokens = token_counts(model)
    costs = [(model.depth, cost(model.width, model.num_heads, encoder_tokens))]
    if not isinstance(model, Classifier):
        width, heads = model.decoder_width or model.width, model.decoder_num_heads or model.num_heads
        costs.append((model.decoder_depth, cost(width, heads, decoder_tokens, decoder=True)))
    return costs


def flops_per_image(model, *, training=True):
    """FLOPs of one image of the network's own size: forward and backward, or forward alone as in training (masked)."""
    pixels = model.patch_size**2 * model.channels
    embedding = 2 * model.num_patches * pixels * model.width
    if isinstance(model, Classifier):
        head = 2 * model.width * model.num_classes
        embedding_training = 3 if model.embedding_norms else 2  # a norm before the embedding is learned
    else:
        inner = model.decoder_width or model.width
        head, embedding_training = 2 * model.num_patches * inner * pixels, 2  # no gradient for the pixels
        if model.has_decoder_embedding:
            head += 2 * token_counts(model)[0] * model.width * inner
    total = (3 * head + embedding_training * embedding) if training else head + embedding
    for depth, cost in layer_costs(model):
        linear, attention = (3, cost.attention_training) if training else (1, 1)
        total += depth * (linear * cost.linear + attention * cost.attention)
    return total


def repeated_flops(model):
    """FLOPs of one image that the backward pass of training computes once more, to save fewer residuals.

    With `remat` "full" that is the forward pass of the layers, with "names" each layer's `Cost.recomputed`
    (`operators.residuals`); without it each layer's `Cost.repeated`: the attention of a kernel that does not save it.
    """
    again, remat = 0, model.remat
    for depth, cost in layer_costs(model):
        if remat == "full":
            again += depth * (cost.linear + cost.attention)
        elif remat == "names":
            again += depth * cost.recomputed
        else:
            again += depth * cost.repeated
    return again
