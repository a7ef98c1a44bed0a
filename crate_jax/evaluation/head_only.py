"""MAE's linear probe as a training (He et al. 2022): a head on the batch-normalised features of a frozen encoder.

    logits = BN(x) W + b,   x the class token after the final norm,   BN without scale and shift

In training BN takes the batch's mean and variance. For evaluation both are those of the whole training set (Meta's code
has a running mean of them), folded into the head: W / sigma and b - (mu / sigma) W make a plain classifier.
"""

import dataclasses
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from crate_jax.config import flatten, model_overrides
from crate_jax.distributed.mesh import make_mesh
from crate_jax.errors import UserError
from crate_jax.evaluation.classification import mean_of
from crate_jax.evaluation.feature_store import split_batches
from crate_jax.interop.checkpoint_file import MODEL, ParamsCheckpoint, write_folder
from crate_jax.training.objective import channel_statistics, normalise
from crate_jax.training.step import micro_batches

CLASSIFIER = "classifier"  # in a workdir: the folded network
EPSILON = 1e-6  # of the variance, as in Meta's code


def check_head_only(config, model, encoder):
    """Refuses what has no such probe, and settings that it would have to ignore.

    Raises:
        UserError: another pooling, no pre-trained encoder, or soft targets and depths.
    """
    if model.pooling != "cls":
        raise UserError(f"model.pooling={model.pooling}: a head alone (finetune.head_only) reads the class token, cls.")
    if encoder is None:
        raise UserError("finetune.head_only: a head alone, from scratch, on an encoder that stays untrained; drop one.")
    flat = flatten(config)
    for name in ("data.mixup", "data.cutmix", "data.label_smoothing", "model.drop_path", "optimizer.layer_decay"):
        if flat[name]:
            raise UserError(f"{name}={flat[name]}: a head alone (finetune.head_only) is trained without it; unset one.")


def head_factors(params):
    """Factors of the update, after weight decay: 1 for the head, 0 for the frozen rest.

    Args:
        params: of the classifier.

    Returns:
        A tree of numbers with the structure of `params`.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: float(path[0].key.startswith("head_")), params)


@dataclasses.dataclass(frozen=True)
class HeadOnly:
    """The objective of the probe.

    Attributes:
        model: a classifier whose head reads the class token.
        mean, std: of `normalise`.
        micro_batches: the encoder sees so many parts of the batch one after the other; statistics are the batch's.
    """

    model: Any
    mean: tuple
    std: tuple
    micro_batches: int = 1

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
        known_B = batch["label"] >= 0
        loss_B = optax.softmax_cross_entropy_with_integer_labels(logits_BxC, jnp.maximum(batch["label"], 0))
        right_B = jnp.argmax(logits_BxC, -1) == batch["label"]
        return mean_of(loss_B, known_B), {"train_accuracy": mean_of(right_B.astype(jnp.float32), known_B)}


def fold_normalisation(model, params, config, indices=None):
    """Parameters of a plain classifier: the training set's mean and variance folded into the head.

    Args:
        model, params: the classifier.
        config: its `data` and `mesh`.
        indices: of the training examples; None is all.

    Returns:
        Parameters.
    """
    mean, std = channel_statistics(config, model.channels)
    mesh = make_mesh(config.mesh)

    @jax.jit
    def sums(params, batch):
        latent_BxTxD = model.apply({"params": params}, normalise(batch["image"], mean, std)).latent_BxTxD
        token_BxD = jnp.where(batch["valid"][:, None], latent_BxTxD[:, 0].astype(jnp.float32), 0)
        return jnp.sum(token_BxD, 0), jnp.sum(token_BxD**2, 0), jnp.sum(batch["valid"])

    batches = split_batches(config, model, config.data.train_split, mesh=mesh, indices=indices)
    parts = [jax.device_get(sums(params, batch)) for batch in batches]
    sum_D, square_D, count = (np.sum(column, 0, np.float64) for column in zip(*parts, strict=True))
    mean_D = sum_D / count
    deviation_D = np.sqrt(np.maximum(square_D / count - mean_D**2, 0) + EPSILON)
    kernel_DxC = np.asarray(params["head_kernel"], np.float64) / deviation_D[:, None]
    bias_C = np.asarray(params["head_bias"], np.float64) - mean_D @ kernel_DxC
    placed = {"head_kernel": kernel_DxC, "head_bias": bias_C}
    return params | {
        name: jax.device_put(value.astype(np.float32), params[name].sharding) for name, value in placed.items()
    }


def save_classifier(params, model, config, workdir):
    """Writes the folded classifier beside the checkpoints, which hold the head of normalised features that training
    resumes with. Opening the workdir gives this one.

    Args:
        params: from `fold_normalisation`, on one device.
        model, config: the classifier and its config.
        workdir: an `epath.Path`.
    """
    if jax.process_index():
        return
    checkpoint = ParamsCheckpoint(model, params, config.model.name, model_overrides(config))
    with tempfile.TemporaryDirectory() as draft:
        write_folder(checkpoint, draft)
        target = workdir / CLASSIFIER
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(epath.Path(draft).iterdir(), key=lambda file: file.name == MODEL):  # what names it is last
            file.copy(target / file.name, overwrite=True)
