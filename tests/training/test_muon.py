"""Muon on stacks of layers, against the mathematics in float64 NumPy; whole trainings with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from crate_jax.config import model_overrides, override
from crate_jax.distributed.mesh import AXES
from crate_jax.distributed.sharding import rules_for
from crate_jax.models.registry import create_model
from crate_jax.training.optimizer import make_optimizer
from crate_jax.training.schedule import learning_rate
from crate_jax.training.state import state_shardings

COEFFICIENTS = 3.4445, -4.775, 2.0315  # of the fifth-order iteration (Jordan et al. 2024)


def orthogonalised(x_AxB):
    """Five Newton-Schulz iterations: the singular values go to about one, the singular vectors stay."""
    a, b, c = COEFFICIENTS
    x_AxB = x_AxB / np.linalg.norm(x_AxB)
    for _ in range(5):
        gram_AxA = x_AxB @ x_AxB.T
        x_AxB = a * x_AxB + (b * gram_AxA + c * gram_AxA @ gram_AxA) @ x_AxB
    return x_AxB


def test_muon_orthogonalises_the_matrices_of_each_layer_and_leaves_the_rest_to_adam(tiny):
    leaves = [("optimizer.name", "muon"), ("optimizer.warmup_steps", 0), ("optimizer.clip_norm", None)]
    config = override(tiny, leaves)
    adam = make_optimizer(override(config, [("optimizer.name", "adamw")]), 1000)
    muon, rate, beta = make_optimizer(config, 1000), learning_rate(config, 1000), 0.95
    random = np.random.default_rng(0)
    params = {
        "encoder": {"dictionary": random.normal(size=(2, 6, 9)), "scale": random.normal(size=(2, 6))},
        "decoder": {"linear_kernel": random.normal(size=(1, 9, 6))},
        "head_kernel": random.normal(size=(6, 4)),
    }
    params = jax.tree.map(jnp.float32, params)
    state, adam_state = muon.init(params), adam.init(params)
    momentum = jax.tree.map(lambda leaf: np.zeros(leaf.shape), params)
    for step in range(3):
        grads = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), params)
        updates, state = muon.update(jax.tree.map(jnp.float32, grads), state, params)
        adams, adam_state = adam.update(jax.tree.map(jnp.float32, grads), adam_state, params)
        momentum = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, momentum, grads)
        for stack, name in (("encoder", "dictionary"), ("decoder", "linear_kernel")):
            m_LxAxB, g_LxAxB, w_LxAxB = (np.asarray(tree[stack][name]) for tree in (momentum, grads, params))
            ahead = beta * m_LxAxB / (1 - beta ** (step + 2)) + (1 - beta) * g_LxAxB / (1 - beta ** (step + 1))
            wanted = [0.2 * 3 * orthogonalised(one) for one in ahead]  # 0.2 sqrt(max(6, 9)): the RMS of AdamW
            wanted = -rate(step) * (np.stack(wanted) + config.optimizer.weight_decay * w_LxAxB)
            np.testing.assert_allclose(updates[stack][name], wanted, rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(updates["encoder"]["scale"], adams["encoder"]["scale"])
        np.testing.assert_array_equal(updates["head_kernel"], adams["head_kernel"])


def test_moments_are_sharded_as_their_parameters_and_momentum_by_layers_too(tiny):
    config = override(tiny, [("optimizer.name", "muon")])
    model = create_model(config.model.name, **model_overrides(config))
    mesh = AbstractMesh((2, 4, 2), AXES, axis_types=(AxisType.Auto,) * 3)
    abstract = state_shardings(model, make_optimizer(config, 1000), mesh)
    (state,) = (state for state in abstract.opt_state if hasattr(state, "inner_states"))
    adam, (muon, _) = (state.inner_states[name].inner_state for name in ("adam", "muon"))
    assert adam.mu["head_kernel"] == adam.nu["head_kernel"] == abstract.params["head_kernel"]
    assert adam.count.sharding.spec == PartitionSpec()
    dictionary = abstract.params["encoder"]["sparsification"]["dictionary"].sharding.spec
    assert any(dictionary)
    momentum = muon.mu["encoder"]["sparsification"]["dictionary"].sharding.spec
    assert momentum == PartitionSpec("data", *dictionary[1:])  # two layers, mesh.data=2
    assert muon.mu["decoder"]["linear_kernel"].sharding.spec[0] is None  # one layer


@pytest.mark.parametrize("rule", [("embed", ("data", "fsdp")), ("heads", "data")])
def test_momentum_is_sharded_over_data_once(tiny, rule):
    config = override(tiny, [("optimizer.name", "muon"), ("mesh.rules", (rule,))])
    model = create_model(config.model.name, **model_overrides(config))
    mesh = AbstractMesh((2, 2, 1), AXES, axis_types=(AxisType.Auto,) * 3)
    abstract = state_shardings(model, make_optimizer(config, 1000), mesh, rules=rules_for(config.mesh))
    (state,) = (state for state in abstract.opt_state if hasattr(state, "inner_states"))
    momentum = state.inner_states["muon"].inner_state[0].mu["encoder"]["compression"]["attention"]["subspaces"]
    subspaces = abstract.params["encoder"]["compression"]["attention"]["subspaces"]
    assert momentum.sharding == subspaces.sharding and "data" in str(momentum.sharding.spec)
