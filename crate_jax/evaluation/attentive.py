"""The attentive probe: a learned query attends to the frozen encoder's patch tokens; a linear classifier follows.

    h = sum_n softmax_n(q_h . K_h x_n / sqrt(P)) V_h x_n    per head h, x_n the layer-normed token n of the last layer
    logits = [h_1 .. h_H] W + b

It reads what averaging loses (Bardes et al. 2024; Chen et al. 2024). Heads of every learning rate and weight decay of a
grid are trained at once on the same batches; images are streamed through the encoder, so nothing is stored. The head
that is best on a held-out tenth of the training examples is tested.
"""

import functools
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crate_jax.data.sources import open_held_out
from crate_jax.distributed.mesh import make_mesh, one_at_a_time
from crate_jax.distributed.sharding import replicated
from crate_jax.errors import UserError
from crate_jax.evaluation.feature_store import NoLabels, batch_size_of, labelled, split_batches, sum_over
from crate_jax.evaluation.results import Result
from crate_jax.evaluation.selection import interval_of
from crate_jax.operators.normalisation import layer_norm
from crate_jax.training.objective import normalise

logger = logging.getLogger(__name__)

RATES, DECAYS = (3e-4, 1e-3, 3e-3), (0.0, 0.05)  # of AdamW: the grid
EPOCHS = 10
HEADS = 8  # at most; as many as divide the width
HELD_OUT = 10  # one training example in so many is held out to choose
BATCH = 256  # at most; small data sets still have 16 steps an epoch
WARM_UP = 0.05  # of the steps
ADAM = optax.scale_by_adam(b2=0.999)


def new_head(key, width, heads, classes):
    """Parameters: query_HxP, key_DxHxP, value_DxHxP, kernel_DxK, bias_K; P = D / H."""
    of_keys, of_values, of_query = jax.random.split(key, 3)
    shape = (width, heads, width // heads)
    return {
        "query": jax.random.normal(of_query, shape[1:]),
        "key": jax.random.normal(of_keys, shape) * width**-0.5,
        "value": jax.random.normal(of_values, shape) * width**-0.5,
        "kernel": jnp.zeros((width, classes)),
        "bias": jnp.zeros((classes,)),
    }


def head_logits(head, token_BxNxD):
    """logits_BxK, float32.

    Args:
        head: from `new_head`.
        token_BxNxD: patch tokens, float32.
    """
    normed_BxNxD = layer_norm(token_BxNxD, 1.0, 0.0, epsilon=1e-6)
    # the query goes through the keys once, not every token
    asked_DxH = jnp.einsum("dhp,hp->dh", head["key"], head["query"]) * head["query"].shape[1] ** -0.5
    weight_BxNxH = jax.nn.softmax(normed_BxNxD @ asked_DxH, axis=1)
    pooled_BxHxD = jnp.einsum("bnh,bnd->bhd", weight_BxNxH, normed_BxNxD)
    value_BxHxP = jnp.einsum("bhd,dhp->bhp", pooled_BxHxD, head["value"])
    return value_BxHxP.reshape(len(value_BxHxP), -1) @ head["kernel"] + head["bias"]


def attentive_probe(subject):
    """Trains the heads and tests the best: a `Result`, whose numbers are what `probe_attentive.json` holds.

    Raises:
        UserError: no such split, no labels, one class only.
    """
    settings, model, grid = subject.config.data, subject.model, [(rate, decay) for rate in RATES for decay in DECAYS]
    open_held_out(settings, classify=True)  # a missing split is refused before minutes have passed
    test_M, index_N = (labelled(subject, split) for split in (settings.validation_split, settings.train_split))
    if subject.open_split(settings.train_split).num_classes < 2:
        raise UserError(
            f"data.name={settings.name} has 1 class; a classifier needs two or more; name another data set by "
            "--config.data.name."
        )
    if len(index_N) < 2:
        raise UserError(
            f"split {settings.train_split!r} of data.name={settings.name} has one labelled example; two train."
        )
    # at random: in the order of a data set classes may alternate
    held_N = np.random.RandomState(0).permutation(len(index_N)) < max(1, len(index_N) // HELD_OUT)
    mesh = make_mesh(subject.config.mesh)
    size = min(BATCH, batch_size_of(model.image_size, mesh.size), max(8, int((~held_N).sum()) // 16))
    options = {"mesh": mesh, "size": mesh.size * max(1, size // mesh.size)}
    params = jax.device_put(jax.device_get(subject.params), replicated(mesh))
    tokens = functools.partial(_tokens, model, *subject.statistics)
    heads = _train(subject, tokens, params, grid, index_N[~held_N], options)

    def accuracy(heads, split, indices):
        right_of = functools.partial(_right, tokens, heads, params)
        right_P, seen = sum_over(right_of, subject.config, model, split, indices=indices, **options)
        if not seen:
            raise NoLabels(settings, split)
        return right_P / seen, int(seen)

    share_P, _ = accuracy(heads, settings.train_split, index_N[held_N])
    best = int(np.argmax(share_P))
    chosen = jax.tree.map(lambda leaf: leaf[best : best + 1], heads)
    (share,), tested = accuracy(chosen, settings.validation_split, test_M)
    tried = [
        {"learning_rate": rate, "weight_decay": decay, "held_out": float(share)}
        for (rate, decay), share in zip(grid, share_P, strict=True)
    ]
    results = {"accuracy": float(share), "interval": interval_of(float(share), tested), "protocol": "attentive"}
    results |= {"features": "attention@last", "epochs": EPOCHS, "grid": tried} | tried[best]
    results |= {"train_examples": int((~held_N).sum()), "test_examples": tested}
    results |= subject.stamp(settings.validation_split, tested)
    return Result("probe_attentive", results, {"grid": tried})


def _train(subject, tokens, params, grid, index_N, options):
    """A head for each (learning rate, weight decay) of a grid, trained on the same batches of the frozen encoder's."""
    config, model, split = subject.config, subject.model, subject.config.data.train_split
    parts = max(count for count in range(1, HEADS + 1) if model.width % count == 0)
    head = new_head(jax.random.key(config.seed), model.width, parts, subject.open_split(split).num_classes)
    heads = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(grid), *leaf.shape)), head)
    state = jax.device_put(jax.device_get((heads, jax.vmap(ADAM.init)(heads))), replicated(options["mesh"]))
    rate_P, decay_P = (jnp.asarray(column, jnp.float32) for column in zip(*grid, strict=True))
    step, steps = 0, EPOCHS * -(-len(index_N) // options["size"])
    for epoch in range(EPOCHS):
        order = np.random.RandomState(epoch).permutation(index_N)
        for batch in split_batches(config, model, split, indices=order, **options):
            share = 0.5 * (1 + math.cos(math.pi * step / steps)) * min(1.0, (step + 1) / steps / WARM_UP)
            state = _step(tokens, state, params, batch, rate_P, decay_P, share)
            if one_at_a_time(options["mesh"]):
                jax.block_until_ready(state)
            step += 1
        logger.info("attentive probe: epoch %d of %d", epoch + 1, EPOCHS)
    return state[0]


def _tokens(model, mean, std, params, image_BxHxWxC):
    """Patch tokens of the last layer, no gradient."""
    output = model.apply({"params": params}, normalise(image_BxHxWxC, mean, std))
    return jax.lax.stop_gradient(output.latent_BxTxD[:, 1:].astype(jnp.float32))


def _known(batch):
    return batch["valid"] & (batch["label"] >= 0)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _step(tokens, state, params, batch, rate_P, decay_P, share):
    token_BxNxD, known_B, label_B = tokens(params, batch["image"]), _known(batch), jnp.maximum(batch["label"], 0)

    def loss(head):
        each_B = optax.softmax_cross_entropy_with_integer_labels(head_logits(head, token_BxNxD), label_B)
        return jnp.sum(each_B * known_B) / jnp.maximum(jnp.sum(known_B), 1)

    def update(head, moments, rate, decay):
        change, moments = ADAM.update(jax.grad(loss)(head), moments, head)
        return jax.tree.map(lambda p, c: p - share * rate * (c + decay * p), head, change), moments

    return jax.vmap(update)(*state, rate_P, decay_P)


@functools.partial(jax.jit, static_argnums=0)
def _right(tokens, heads, params, batch):
    token_BxNxD, known_B = tokens(params, batch["image"]), _known(batch)
    predicted_PxB = jax.vmap(lambda head: jnp.argmax(head_logits(head, token_BxNxD), -1))(heads)
    return jnp.sum((predicted_PxB == batch["label"]) & known_B, -1), jnp.sum(known_B)
