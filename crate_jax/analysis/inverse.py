"""Is the decoder the encoder's inverse? Decoder layer l should undo encoder layer L + 1 - l, so Y^l should be Z^(L-l).

Every state of the encoder (Z^0 the embedding, ..., Z^L after the final norm) is compared with every state of the
decoder (Y^0 = Z^L, ..., Y^L), so that the diagonal the theory predicts stands beside its baselines: the other layers,
and another image. Two measures:

    cosine    between the tokens themselves, each scaled to unit length
    cka       linear CKA (Kornblith et al. 2019): the same up to a rotation and a scale of the whole space
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
    encoder = [layers[name] for name in sorted(layers) if name.startswith("encoder")]
    decoder = [layers[name] for name in sorted(layers) if name.startswith("decoder")]
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
    width = z.shape[-1]
    pairs = z.shape[1] * z.shape[2] * width
    same = jnp.einsum("ibtd,jbtd->ij", z, y, precision="highest") / pairs
    other = jnp.einsum("ibtd,jbtd->ij", z, jnp.roll(y, 1, 1), precision="highest") / pairs

    def gram(states):
        flat = states.reshape(states.shape[0], -1, width)
        flat = flat[:, jnp.linspace(0, flat.shape[1] - 1, min(CKA_TOKENS, flat.shape[1])).astype(int)]
        flat = flat - jnp.mean(flat, 1, keepdims=True)
        product = jnp.einsum("snd,smd->snm", flat, flat, precision="highest")
        return product / jnp.maximum(jnp.linalg.norm(product, axis=(1, 2), keepdims=True), 1e-30)

    cka = jnp.einsum("inm,jnm->ij", gram(z), gram(y), precision="highest")
    return {"cosine": same, "cosine_other_image": other, "cka": cka}


def compare_states(model, params, images_BxHxWxC):
    """How alike the encoder's and the decoder's states are, on whole images (no mask).

    Args:
        model: a masked autoencoder whose decoder has its encoder's width.
        params: its parameters.
        images_BxHxWxC: at least two.

    Returns:
        A dictionary: `cosine_IxJ`, `cosine_other_image_IxJ` (each image's encoder beside the next image's decoder) and
        `cka_IxJ`, rows encoder states and columns decoder states, and `expected_J`, the row that the theory predicts
        for each column. None where there is nothing to compare.
    """
    encoder, decoder = states(model, params, images_BxHxWxC)
    if decoder is None or encoder.shape[1:] != decoder.shape[1:]:
        return None
    found = {f"{key}_IxJ": np.asarray(value) for key, value in _compare(encoder, decoder).items()}
    return found | {"expected_J": undoing_layer(len(encoder), len(decoder))}
