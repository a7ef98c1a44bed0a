"""Arithmetic of a network, by formula: matrix products only, a multiply-add counted as two.

The compiler's own count is of no use here: it counts a scanned layer once. Per token and layer, with width D and T
tokens (forward): U 2 D^2, scores and weighted sum 4 T D, output projection 2 D^2, ISTA 4 D^2, the decoder's map 2 D^2.
The backward pass costs twice a product's arithmetic, but MSSA's takes three batched products where autodiff takes four
(`operators.subspace_attention`).
"""

from crate_jax.models.classifier import Classifier, CrateClassifier
from crate_jax.models.masked_autoencoder import CrateMae
from crate_jax.operators.masking import num_visible


def _crate_layer(model, tokens, width, encoder):
    projections = 1 + (model.output_projection == "tied" or model.num_heads > 1)
    square = projections + (2 if encoder else 1)
    return 2 * tokens * width**2 * square, 2 * tokens**2 * width * 2


def _vit_layer(model, tokens, width, encoder):
    return 2 * tokens * width**2 * 12, 2 * tokens**2 * width * 2


def token_counts(model):
    """(encoder, decoder): tokens of one image in training, class token included."""
    tokens = model.num_patches + 1
    dropped = getattr(model, "mask_mode", None) == "drop"
    return (num_visible(model.num_patches, model.mask_ratio) + 1 if dropped else tokens), tokens


def flops_per_image(model, *, training=True):
    """FLOPs of one image through a masked autoencoder or a classifier.

    Args:
        model: from `create_model`, at its own image size.
        training: forward and backward; else forward alone, as in training (with the mask).

    Returns:
        A number; multiply-adds count twice.
    """
    crate = isinstance(model, CrateMae | CrateClassifier)
    layer = _crate_layer if crate else _vit_layer
    if isinstance(model, Classifier):
        return _classifier_flops(model, layer, 2.5 if crate else 3, training)
    inner = model.decoder_width or model.width
    pixels = model.patch_size**2 * model.channels
    encoder_tokens, decoder_tokens = token_counts(model)
    linear = attention = 0
    for count, tokens, width, encoder in (
        (model.depth, encoder_tokens, model.width, True),
        (model.decoder_depth, decoder_tokens, inner, False),
    ):
        products, scores = layer(model, tokens, width, encoder)
        linear, attention = linear + count * products, attention + count * scores
    if model.has_decoder_embedding or inner != model.width:
        linear += 2 * encoder_tokens * model.width * inner
    head = 2 * model.num_patches * inner * pixels
    embedding = 2 * model.num_patches * pixels * model.width
    if not training:
        return linear + attention + head + embedding
    # nothing flows back into the pixels, so the embedding has a weight gradient only
    return 3 * (linear + head) + (2.5 if crate else 3) * attention + 2 * embedding


def repeated_flops(model):
    """FLOPs of one image that the backward pass of training computes once more, to keep less for it.

    With `remat` "full" that is the forward pass, with "names" what a kernel of ISTA gave. Kernels of MSSA compute the
    scores anew, and what SSA gave for its matrix's gradient; autodiff that recomputes ("recompute") the scores, and one
    more for its gradient: two products of T x T x P a head either way.
    """
    remat, kernels = getattr(model, "remat", "none"), getattr(model, "product_kernel", "auto") == "pallas"
    if remat == "full" or (remat == "dots" and kernels):
        again = flops_per_image(model, training=False)
    elif remat == "names" and kernels:
        again = 4 * model.depth * token_counts(model)[0] * model.width**2
    else:
        again = 0
    if getattr(model, "attention_kernel", "auto") in ("pallas", "recompute"):
        stacks = zip((model.depth, getattr(model, "decoder_depth", 0)), token_counts(model), strict=True)
        again += sum(depth * 4 * tokens**2 * model.width for depth, tokens in stacks)
    return again


def _classifier_flops(model, layer, attention_factor, training):
    linear, attention = layer(model, model.num_patches + 1, model.width, True)
    head = 2 * model.width * model.num_classes
    embedding = 2 * model.num_patches * model.patch_size**2 * model.channels * model.width
    if not training:
        return model.depth * (linear + attention) + head + embedding
    # a norm before the embedding is learned, so something flows back through it
    back = 3 if model.embedding_norms else 2
    return model.depth * (3 * linear + attention_factor * attention) + 3 * head + back * embedding
