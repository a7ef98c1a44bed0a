"""What fine-tuning minimises: cross-entropy, of a whole classifier with soft targets or of a head alone.

The classifier is fed as in pre-training (the same normalisation). Mixing comes with the batch, stochastic depth by
step. Layer-wise decay (Bao et al. 2022; MAE): the rate of the layer l of L is decay^(L + 1 - l), of the embedding
(l = 0) decay^(L + 1), of head and final norm 1. In a CRATE, subspaces and dictionary of a layer share their layer's
rate; drop path leaves out compression only, unless there is a residual around sparsification (CRATE-alpha, ToST).

MAE's linear probe (He et al. 2022) is a head on the batch-normalised features of a frozen encoder:

    logits = BN(x) W + b,   x the class token after the final norm,   BN without scale and shift

In training BN takes the batch's mean and variance. For evaluation both are those of the whole training set (Meta's code
has a running mean of them), folded into the head: W / sigma and b - (mu / sigma) W make a plain classifier.
"""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from crate_jax.data.mixing import mixed, paired, smoothed
from crate_jax.errors import UserError
from crate_jax.training.objective import normalise
from crate_jax.training.step import micro_batches

EPSILON = 1e-6  # of the variance of a head alone, as in Meta's code


@dataclasses.dataclass(frozen=True)
class Classification:
    """The objective of fine-tuning, in the place of `training.objective.MaskedCompletion`."""

    model: Any  # a classifier
    mean: tuple  # of `normalise`
    std: tuple
    label_smoothing: float = 0.0  # fraction of a target that is shared evenly by all classes
    mixes: bool = False  # batches carry `mix_weight` and `mix_box`

    def prepare(self, batch):
        """The global batch with what its micro-batches need of each other: the partners of mixup and CutMix."""
        return paired(batch) if self.mixes else batch

    def _examples(self, image_BxHxWxC, label_B):
        """Normalised images and smoothed targets."""
        targets_BxK = smoothed(label_B, self.model.num_classes, self.label_smoothing)
        return normalise(image_BxHxWxC, self.mean, self.std), targets_BxK

    def __call__(self, params, batch, key):
        """The loss of a batch.

        Args:
            batch: `image` (uint8, B x H x W x C), `label` (B); with `mixes` what `prepare` adds and the draws of
                `mixing_plan`.
            key: a PRNG key, of the seed and the step, for stochastic depth.

        Returns:
            (loss, {"train_accuracy": share of the images whose likeliest class is that of their label}).
        """
        images_BxHxWxC, target_BxK = self._examples(batch["image"], batch["label"])
        if self.mixes:
            partners = self._examples(batch["partner_image"], batch["partner_label"])
            images_BxHxWxC, target_BxK = mixed(
                images_BxHxWxC, target_BxK, *partners, batch["mix_weight"], batch["mix_box"]
            )
        output = self.model.apply(
            {"params": params}, images_BxHxWxC, train=True, index_B=batch["index"], rngs={"dropout": key}
        )
        known_B = batch["label"] >= 0
        if self.mixes:
            known_B &= batch["partner_label"] >= 0
        loss_B = optax.softmax_cross_entropy(output.logits_BxC, target_BxK)
        return _means(loss_B, output.logits_BxC, batch["label"], known_B)


@dataclasses.dataclass(frozen=True)
class HeadOnly:
    """The objective of the probe."""

    model: Any  # a classifier whose head reads the class token
    mean: tuple  # of `normalise`
    std: tuple
    micro_batches: int = 1  # the encoder sees so many parts one after the other; statistics are the whole batch's

    def tokens(self, params, image_BxHxWxC):
        """Class tokens after the final norm, B x D, float32; no gradient flows back from them."""

        def encode(image_MxHxWxC):
            images_MxHxWxC = normalise(image_MxHxWxC, self.mean, self.std)
            return self.model.apply({"params": frozen}, images_MxHxWxC).latent_BxTxD[:, 0].astype(jnp.float32)

        frozen = jax.lax.stop_gradient(params)
        if self.micro_batches == 1:
            return encode(image_BxHxWxC)
        token_AxMxD = jax.lax.map(encode, micro_batches(image_BxHxWxC, self.micro_batches))
        return token_AxMxD.swapaxes(0, 1).reshape(len(image_BxHxWxC), -1)

    def __call__(self, params, batch, key):
        """The loss of a batch; see `training.objective`."""
        del key
        token_BxD = self.tokens(params, batch["image"])
        mean_D, variance_D = jnp.mean(token_BxD, 0), jnp.var(token_BxD, 0)
        normed_BxD = (token_BxD - mean_D) * jax.lax.rsqrt(variance_D + EPSILON)
        logits_BxC = jnp.matmul(normed_BxD, params["head_kernel"], precision="highest") + params["head_bias"]
        loss_B = optax.softmax_cross_entropy_with_integer_labels(logits_BxC, jnp.maximum(batch["label"], 0))
        return _means(loss_B, logits_BxC, batch["label"], batch["label"] >= 0)


def _means(loss_B, logits_BxC, label_B, known_B):
    """(loss, {"train_accuracy"}): means over the examples that have a label; 0 where none has."""
    loss, accuracy = (
        jnp.sum(jnp.where(known_B, value_B, 0)) / jnp.maximum(jnp.sum(known_B), 1)
        for value_B in (loss_B, (jnp.argmax(logits_BxC, -1) == label_B).astype(jnp.float32))
    )
    return loss, {"train_accuracy": accuracy}


def layer_rates(depth, decay):
    """A function from parameters to a tree of factors of the learning rate; each broadcasts to its parameter.

    `decay` is the rate of a layer over that of the next; there are `depth`.
    """

    def rates(params):
        def factor(path, leaf):
            if path[0].key == "encoder":  # a leading axis of layers
                return (decay ** jnp.arange(depth, 0, -1.0)).reshape(-1, *(1,) * (leaf.ndim - 1))
            return 1.0 if path[0].key in ("encoder_norm", "head_kernel", "head_bias") else decay ** (depth + 1)

        return jax.tree_util.tree_map_with_path(factor, params)

    return rates


def head_factors(params):
    """Factors of the update, after weight decay: 1 for the head, 0 for the frozen rest; a tree like `params`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: float(path[0].key.startswith("head_")), params)


def pretrained_start(params, encoder, pooling):
    """Fresh parameters with those of a pre-trained encoder in their place.

    The head is fresh. So is the final norm where the head reads the mean of the patches, as MAE has it: there it norms
    the mean, not the tokens that it was trained on.

    Args:
        params, pooling: of the classifier, the first fresh.
        encoder: parameters of the pre-trained network.

    Returns:
        (parameters, names that stayed fresh).

    Raises:
        UserError: an encoder of another shape.
    """
    fresh, known = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (params, encoder))
    new = ("head_", *(("encoder_norm",) if pooling == "mean" else ()))
    new += ("position_table",) if "position_table" not in known else ()
    ours = {name: value.shape for name, value in fresh.items() if not name.startswith(new)}
    theirs = {
        name: value.shape
        for name, value in known.items()
        if name in ours or (name.startswith("encoder") and not name.startswith(new))
    }
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"the pre-trained encoder does not fit this classifier: {name} has shape {theirs.get(name)} there, "
                f"{ours.get(name)} here; leave model.* as the pre-trained network has it."
            )
    params = flax.traverse_util.unflatten_dict(fresh | {name: known[name] for name in ours}, sep="/")
    return params, sorted(set(fresh) - set(ours))
