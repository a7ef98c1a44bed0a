"""Similarity of states: the decoder as the encoder's inverse, and the layers of two networks.

Decoder layer l should undo encoder layer L + 1 - l, so Y^l should be Z^(L-l). Every state of the encoder (Z^0 the
embedding, ..., Z^L after the final norm) is compared with every state of the decoder (Y^0, made from Z^L, ..., Y^L),
so that the predicted pairs stand beside their baselines: the other layers, and another image.

    cosine    between the tokens themselves, each scaled to unit length
    cka       linear CKA (Kornblith et al. 2019), debiased (Song et al. 2012): the same up to a rotation and a scale of
              the whole space, so it also compares networks of different widths; 0 for unrelated features, 1 for equal
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.analysis.objective import unit_tokens
from crate_jax.models.trace import trace

CKA_TOKENS = 512


@functools.partial(jax.jit, static_argnames=("model",))
def states(model, params, images_BxHxWxC, mask_BxN=None):
    """The tokens between layers: (encoder_IxBxTxD, I = L + 1; decoder_JxBxTxD, J = decoder layers + 1).

    The encoder's last state is after its final norm; the decoder's first is what its first layer reads. With a mask and
    mask_mode "drop" the encoder has fewer tokens than the decoder.
    """
    output, layers = trace(model, params, images_BxHxWxC, mask_BxN)
    encoder = [layer for name, layer in layers.items() if name.startswith("encoder")]
    decoder = [layer for name, layer in layers.items() if name.startswith("decoder")]
    z = [layer["input"] for layer in encoder] + [output.latent_BxTxD]
    y = ([decoder[0]["input"]] if decoder else []) + [layer["output"] for layer in decoder]
    return jnp.stack(z), (jnp.stack(y) if y else None)


def undoing_layer(encoder_states, decoder_states):
    """The encoder state that each decoder state should equal: J integers, I - 1 first and 0 last.

    For unequal depths the paper says nothing; the same fraction of the way is taken.
    """
    return np.round(np.linspace(encoder_states - 1, 0, decoder_states)).astype(int)


@jax.jit
def _compare(encoder_IxBxTxD, decoder_JxBxTxD):
    z, y = unit_tokens(encoder_IxBxTxD), unit_tokens(decoder_JxBxTxD)
    size = z.shape[2] * z.shape[3]
    return {
        "cosine": jnp.einsum("ibtd,jbtd->ijb", z, y, precision="highest") / size,
        "cosine_other_image": jnp.einsum("ibtd,jbtd->ijb", z, jnp.roll(y, 1, 1), precision="highest") / size,
        "cka": cka(rows_of(z), rows_of(y)),
    }


def rows_of(states_SxBxTxD, most=CKA_TOKENS):
    """Tokens of all images as rows, at most so many, evenly spread: SxNxD."""
    flat_SxNxD = states_SxBxTxD.reshape(len(states_SxBxTxD), -1, states_SxBxTxD.shape[-1])
    return flat_SxNxD[:, np.linspace(0, flat_SxNxD.shape[1] - 1, min(most, flat_SxNxD.shape[1])).astype(int)]


def cka(first_IxNxD, second_JxNxE):
    """Debiased linear CKA between two lists of states on the same N >= 4 rows.

    Args:
        first_IxNxD, second_JxNxE: rows that belong together; the widths may differ.

    Returns:
        cka_IxJ: 1 for equal states up to rotation and scale, about 0 (also below) for unrelated ones.
    """

    def gram(states_SxNxD):
        """U-centred (Szekely & Rizzo 2014): inner products of two of them are the unbiased HSIC."""
        x = states_SxNxD.astype(jnp.float32)
        x = x - jnp.mean(x, 1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.maximum(jnp.mean(jnp.square(x), (1, 2), keepdims=True), 1e-30))
        count = x.shape[1]
        off = 1 - jnp.eye(count)
        product = jnp.einsum("snd,smd->snm", x, x, precision="highest") * off
        rows = jnp.sum(product, 2, keepdims=True) / (count - 2)
        total = jnp.sum(product, (1, 2), keepdims=True) / ((count - 1) * (count - 2))
        return (product - rows - jnp.swapaxes(rows, 1, 2) + total) * off

    first, second = gram(first_IxNxD), gram(second_JxNxE)
    shared = jnp.einsum("inm,jnm->ij", first, second, precision="highest")
    sizes = [jnp.sum(jnp.square(one), (1, 2)) for one in (first, second)]
    return shared * jax.lax.rsqrt(jnp.maximum(jnp.outer(*sizes), 1e-30))


@functools.partial(jax.jit, static_argnames=("model",))
def layer_outputs(model, params, images_BxHxWxC):
    """What every layer gives, encoder first: SxBxTxD per stack; patches only, so that class tokens do not count."""
    layers = trace(model, params, images_BxHxWxC)[1]
    stacks = ([name for name in layers if name.startswith(part)] for part in ("encoder", "decoder"))
    return [jnp.stack([layers[name]["output"][:, 1:] for name in names]) for names in stacks if names]


def compare_networks(first, second, images_BxHxWxC):
    """CKA between the layers of two networks on the same images.

    Args:
        first, second: pairs (model, params); their patch sizes may differ, then an image's tokens are averaged.
        images_BxHxWxC: normalised, at least four.

    Returns:
        cka_IxJ, rows the first network's layers, encoder then decoder.
    """
    outputs = [layer_outputs(model, params, images_BxHxWxC) for model, params in (first, second)]
    if outputs[0][0].shape[2] != outputs[1][0].shape[2]:
        outputs = [[jnp.mean(stack, 2, keepdims=True) for stack in stacks] for stacks in outputs]
    rows = [[rows_of(stack) for stack in stacks] for stacks in outputs]
    return np.concatenate([np.concatenate([np.asarray(cka(a, b)) for b in rows[1]], 1) for a in rows[0]], 0)


def compare_states(model, params, images_BxHxWxC):
    """How alike the encoder's and the decoder's states are, on whole images (no mask).

    Args:
        model: a masked autoencoder whose decoder has its encoder's width.
        params: its parameters.
        images_BxHxWxC: at least two.

    Returns:
        A dictionary: `cosine_IxJxB`, `cosine_other_image_IxJxB` (each image's encoder beside the next image's decoder)
        and `cka_IxJ`, rows encoder states and columns decoder states, and `expected_J`, the row that the theory
        predicts for each column. None where there is nothing to compare.
    """
    encoder, decoder = states(model, params, images_BxHxWxC)
    if decoder is None or encoder.shape[1:] != decoder.shape[1:]:
        return None
    found = _compare(encoder, decoder)
    found = {f"{key}_IxJ{'xB' * (value.ndim - 2)}": np.asarray(value) for key, value in found.items()}
    return found | {"expected_J": undoing_layer(len(encoder), len(decoder))}
