"""Classifiers: an encoder, one token out of it, and a linear head.

    *_classifier_*   the encoder of a masked autoencoder, by the same parameter names, so that pre-trained parameters
                     can be loaded; sine-cosine positions
    crate_alpha_*    the supervised CRATE-alpha (Yang et al. 2024, arXiv 2405.20299): learned positions
    crate_*          the supervised CRATE (Yu et al. 2023, arXiv 2306.01129; official `model/crate.py`): LayerNorm
                     around the embedding, learned positions

Stochastic depth (Huang et al. 2016) leaves a residual branch out for some images of a training batch, with a rate that
grows linearly over the layers. A CRATE has a residual around compression only, so that is all that can be left out;
CRATE-alpha and ToST have one around sparsification as well.
"""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.models.encoder import Encoder, Transformer, WhiteBox
from crate_jax.models.layers.initializers import linear
from crate_jax.operators.affine import affine


@flax.struct.dataclass
class Classified:
    """What a classifier returns.

    Attributes:
        logits_BxC: one number per class, float32.
        latent_BxTxD: the encoder's tokens after its final norm, class token first.
    """

    logits_BxC: jax.Array
    latent_BxTxD: jax.Array


class Classifier(Encoder):
    """The frame; use `CrateClassifier`, `VitClassifier` or `Crate`."""

    num_classes: int = 1000  # C
    pooling: str = "cls"  # what the head reads: the class token, or "mean", of the patches (then normed, as in MAE)
    drop_path: float = 0.0  # fraction of images for which the last layer's branches are left out in training
    learned_positions: bool = False  # the position table is a parameter, and begins as the sine-cosine one

    first_pooled = 1  # token that "mean" begins with

    def setup(self):
        self.encoder_parameters()
        small = nn.initializers.truncated_normal(2e-5)  # MAE's: the first step moves the head only
        self.head = linear(self, "head", (self.width, self.num_classes), ("embed", "classes"), kernel=small)

    def kept_branches(self, batch, index_B=None):
        """Stochastic depth's factor of each layer's S residual branches: 0 or 1 / (1 - rate).

        Args:
            batch: B.
            index_B: the examples' numbers: what is drawn for an image then depends on the step's key and on its number,
                not on its place in the batch; None: on its place.

        Returns:
            L x S x B x 1 x 1, float32.
        """
        rate_L = jnp.linspace(0.0, self.drop_path, self.depth) if self.depth > 1 else jnp.full(1, self.drop_path)
        keep_Lx1x1 = 1 - rate_L[:, None, None]
        key, shape = self.make_rng("dropout"), (self.depth, self.branches)

        def draw(index):
            return jax.random.uniform(jax.random.fold_in(key, index), shape, jnp.float32)

        drawn_LxSxB = jax.vmap(draw, out_axes=-1)(jnp.arange(batch) if index_B is None else index_B)
        return jnp.where(drawn_LxSxB < keep_Lx1x1, 1 / keep_Lx1x1, 0)[..., None, None]

    def encode(self, images_BxHxWxC):
        """Images to latent_BxTxD, the encoder's tokens after the final norm."""
        return self.encoder_norm(self.encode_tokens(images_BxHxWxC))

    def pool(self, z_BxTxD):
        """The token that the head reads, before the norm: B x D."""
        return z_BxTxD[:, 0] if self.pooling == "cls" else jnp.mean(z_BxTxD[:, self.first_pooled :], 1)

    def __call__(self, images_BxHxWxC, *, train=False, index_B=None):
        """Classifies images.

        Args:
            images_BxHxWxC: normalised; H and W are multiples of the patch.
            train: stochastic depth is on; needs an rng named "dropout" where drop_path is not 0.
            index_B: see `kept_branches`.
        """
        keep = self.kept_branches(images_BxHxWxC.shape[0], index_B) if train and self.drop_path else None
        z_BxTxD = self.encode_tokens(images_BxHxWxC, keep=keep)
        pooled_BxD = self.encoder_norm(self.pool(z_BxTxD))
        logits_BxC = affine(pooled_BxD, *self.head)
        return Classified(logits_BxC.astype(jnp.float32), self.encoder_norm(z_BxTxD))


class CrateClassifier(WhiteBox, Classifier):
    """The encoder of a `CrateMae` and a head."""


class VitClassifier(Transformer, Classifier):
    """ViT (Dosovitskiy et al. 2021), as MAE fine-tunes it and timm names it."""


class Crate(CrateClassifier):
    """The supervised CRATE. As in the official code, "mean" is that of all tokens, and the final norm is the head's."""

    learned_positions: bool = True
    lambda_: float = 0.1

    embedding_norms = True
    norm_epsilon = 1e-5
    class_token_init = staticmethod(nn.initializers.normal(1.0))
    position_init = staticmethod(nn.initializers.normal(1.0))
    first_pooled = 0


class CrateAlpha(CrateClassifier):
    """The supervised CRATE-alpha: a plain patch embedding, learned positions, the class token read by the head."""

    learned_positions: bool = True

    class_token_init = staticmethod(nn.initializers.normal(1e-6))
    position_init = staticmethod(nn.initializers.normal(0.02))
