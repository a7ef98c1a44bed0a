"""Stacked layers: one layout of the state, whichever way the layers are computed; optimizers work per layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType

from crate_jax.config import override
from crate_jax.distributed.mesh import AXES
from crate_jax.evaluation.classification import layer_rates
from crate_jax.models.stacks import STACKS, layer_params
from crate_jax.training.checkpoint import Checkpoints
from crate_jax.training.optimizer import make_optimizer
from crate_jax.training.program import build_program
from crate_jax.training.state import state_shardings


def program_of(tiny, **settings):
    return build_program(override(tiny, [("optimizer.ema", 0.9), *settings.items()]), 4000)


def after_three_steps(program):
    state = program.new_state()
    for number in range(3):
        images = np.random.default_rng(number).integers(0, 256, (16, 28, 28, 1), dtype=np.uint8)
        state, _ = program.step(state, {"image": images, "index": np.arange(16, dtype=np.int32)}, program.seed)
    return state


@pytest.fixture(scope="module")
def scanned(tiny):
    return program_of(tiny, **{"model.scan_layers": True})


@pytest.fixture(scope="module")
def unrolled(tiny):
    return program_of(tiny)


def test_scanned_and_unrolled_networks_have_one_layout(scanned, unrolled):
    assert scanned.abstract == unrolled.abstract
    for stack, depth in (("encoder", 2), ("decoder", 1)):
        assert {leaf.shape[0] for leaf in jax.tree.leaves(scanned.abstract.params[stack])} == {depth}
    one, other = scanned.new_state(), unrolled.new_state()
    jax.tree.map(np.testing.assert_array_equal, one, other)
    layers = [layer_params(one.params, f"encoder_{index:02d}") for index in range(2)]
    assert not np.array_equal(*(layer["sparsification"]["dictionary"] for layer in layers))


@pytest.mark.parametrize("began_scanned", [True, False])
def test_a_checkpoint_resumes_scanned_or_unrolled(tmp_path, scanned, unrolled, began_scanned):
    began, resumed = (scanned, unrolled) if began_scanned else (unrolled, scanned)
    state, checkpoints = after_three_steps(began), Checkpoints(tmp_path)
    checkpoints.save(3, state)
    checkpoints.wait()
    restored = checkpoints.restore_newest(resumed.abstract)
    checkpoints.close()
    assert jax.tree.structure(restored) == jax.tree.structure(resumed.abstract)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_the_axis_of_layers_is_replicated(scanned):
    mesh = AbstractMesh((2, 4, 2), AXES, axis_types=(AxisType.Auto,) * 3)
    abstract = state_shardings(scanned.model, scanned.optimizer, mesh, ema=True)
    for stack in STACKS:
        for leaf in jax.tree.leaves(abstract.params[stack]):
            assert leaf.sharding.spec[0] is None
    assert abstract.ema == abstract.params == abstract.opt_state[1].mu


def by_layer(tree):
    """The same tree with each layer of a stack as a tree of its own, under names no optimizer knows."""
    layers = {
        f"{stack}-{index}": jax.tree.map(lambda leaf, index=index: leaf[index], tree[stack])
        for stack in STACKS
        for index in range(jax.tree.leaves(tree[stack])[0].shape[0])
    }
    return {name: leaf for name, leaf in tree.items() if name not in STACKS} | layers


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "lars"])
def test_an_optimizer_treats_stacked_layers_as_single_ones(tiny, scanned, name):
    """Three updates with random gradients, layer-wise decay included."""
    config = override(tiny, [("optimizer.name", name), ("optimizer.warmup_steps", 0)])
    rates = layer_rates(2, 0.5)

    def single_rates(params):
        def rate(path, _):
            owner = path[0].key
            if owner.startswith("encoder-"):
                return 0.5 ** (2 - int(owner[-1]))
            return 1.0 if owner in ("encoder_norm", "head_kernel", "head_bias") else 0.5**3

        return jax.tree_util.tree_map_with_path(rate, params)

    params = scanned.new_state().params
    single = by_layer(params)
    optimizer, reference = (make_optimizer(config, 1000, scale) for scale in (rates, single_rates))
    state, reference_state = optimizer.init(params), reference.init(single)
    update, reference_update, random = jax.jit(optimizer.update), jax.jit(reference.update), np.random.default_rng(0)
    for _ in range(3):
        grads = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), params)
        updates, state = update(grads, state, params)
        single_updates, reference_state = reference_update(by_layer(grads), reference_state, single)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), by_layer(updates), single_updates
        )
        params, single = (jax.tree.map(np.add, *both) for both in ((params, updates), (single, single_updates)))


def test_lars_multiplies_by_the_rate_last(tiny):
    """Meta's order: decay, trust ratio, momentum, rate; a change of rate acts at once on the whole momentum."""
    config = override(tiny, [("optimizer.name", "lars"), ("optimizer.weight_decay", 0.1), ("total_steps", 10)])
    optimizer = make_optimizer(config, 1000)
    weight, gradient = np.array([[3.0, 4.0]]), np.array([[1.0, 2.0]])
    params = {"kernel": jnp.float32(weight)}
    state, momentum = optimizer.init(params), 0
    from crate_jax.training.schedule import learning_rate

    rate = learning_rate(config, 1000)
    for step in range(4):
        updates, state = optimizer.update({"kernel": jnp.float32(gradient)}, state, params)
        decayed = gradient + 0.1 * weight
        clipped = min(1.0, 1.0 / np.linalg.norm(gradient)) * gradient + 0.1 * weight  # clip_norm=1 of the test config
        decayed = clipped if config.optimizer.clip_norm else decayed
        trusted = 0.001 * np.linalg.norm(weight) / np.linalg.norm(decayed) * decayed
        momentum = config.optimizer.b1 * momentum + trusted
        np.testing.assert_allclose(updates["kernel"], -rate(step) * momentum, rtol=1e-5, atol=1e-9)
        weight = weight - rate(step) * momentum
        params = optax.apply_updates(params, updates)
