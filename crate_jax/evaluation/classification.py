"""What fine-tuning minimises: cross-entropy with soft targets; mixing comes with the batch, stochastic depth by step.

The classifier is fed as in pre-training (the same normalisation). Layer-wise decay (Bao et al. 2022; MAE): the rate of
the layer l of L is decay^(L + 1 - l), of the embedding (l = 0) decay^(L + 1), of head and final norm 1. In a CRATE,
subspaces and dictionary of a layer share their layer's rate; drop path leaves out compression only, since there is no
residual around ISTA.
"""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from crate_jax.data.mixing import mixed, smoothed
from crate_jax.training.objective import normalise


@dataclasses.dataclass(frozen=True)
class Classification:
    """The objective of fine-tuning, in the place of `training.objective.MaskedCompletion`.

    Attributes:
        model: a classifier.
        seed: of stochastic depth.
        mean, std: of `normalise`.
        label_smoothing: part of a target spread over all classes.
        mixes: batches carry `mix_weight` and `mix_box`.
    """

    model: Any
    seed: int
    mean: tuple
    std: tuple
    label_smoothing: float = 0.0
    mixes: bool = False

    def __call__(self, params, batch, step):
        """The loss of a batch.

        Args:
            params: of the model.
            batch: `image` (uint8, B x H x W x C), `label` (B), and what mixing wants.
            step: number of the step.

        Returns:
            (loss, {"train_accuracy": share of the images whose likeliest class is that of their label}).
        """
        images_BxHxWxC = normalise(batch["image"], self.mean, self.std)
        target_BxK = smoothed(batch["label"], self.model.num_classes, self.label_smoothing)
        if self.mixes:
            images_BxHxWxC, target_BxK = mixed(images_BxHxWxC, target_BxK, batch["mix_weight"], batch["mix_box"])
        key = jax.random.fold_in(jax.random.key(self.seed), step)
        output = self.model.apply({"params": params}, images_BxHxWxC, train=True, rngs={"dropout": key})
        loss = jnp.mean(optax.softmax_cross_entropy(output.logits_BxC, target_BxK))
        right_B = jnp.argmax(output.logits_BxC, -1) == batch["label"]
        return loss, {"train_accuracy": jnp.mean(right_B.astype(jnp.float32))}


def layer_of(path, depth):
    """0 for the embedding, l for the l-th encoder layer, depth + 1 for the head and the final norm."""
    name = path[0]
    if name.startswith("encoder_") and name[-2:].isdigit():
        return int(name.rpartition("_")[2]) + 1
    if name in ("encoder_norm", "head_kernel", "head_bias"):
        return depth + 1
    return 0


def layer_rates(depth, decay):
    """A function from parameters to a tree of factors of the learning rate.

    Args:
        depth: encoder layers.
        decay: rate of a layer over that of the next.
    """

    def rates(params):
        flat = flax.traverse_util.flatten_dict(params)
        factors = {path: decay ** (depth + 1 - layer_of(path, depth)) for path in flat}
        return flax.traverse_util.unflatten_dict(factors)

    return rates


def pretrained_start(params, encoder):
    """Fresh parameters with those of a pre-trained encoder in their place; what is new (the head) stays fresh.

    The final norm is taken over where the classifier has it at the same place (class token); averaged patches are
    normed after the average, so there it begins anew, as MAE has it.

    Args:
        params: of the classifier, fresh.
        encoder: of the pre-trained network.

    Returns:
        (parameters, names that stayed fresh).
    """
    fresh, known = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (params, encoder))
    took = {name: known[name] for name, value in fresh.items() if name in known and known[name].shape == value.shape}
    return flax.traverse_util.unflatten_dict(fresh | took, sep="/"), sorted(set(fresh) - set(took))
