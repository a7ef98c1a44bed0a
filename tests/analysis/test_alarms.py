"""Alarms ring for a network that was broken on purpose, name the layer, and keep quiet for a fresh one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crate_jax
from crate_jax.analysis.alarms import alarms
from crate_jax.models.stacks import layer_params

SMALL = {"image_size": 32, "patch_size": 8, "width": 32, "num_heads": 4, "depth": 3, "decoder_depth": 1}


@pytest.fixture(scope="module")
def network():
    model = crate_jax.create_model("crate_mae_tiny", **SMALL)
    images = jax.random.normal(jax.random.key(1), (6, 32, 32, 3))
    measure = jax.jit(lambda params: crate_jax.measure_layers(model, params, images))
    return crate_jax.init_params(model, jax.random.key(0)), measure


def test_a_fresh_network_is_quiet(network):
    params, measure = network
    assert alarms(measure(params)) == []


def broken(params, kind):
    params = jax.tree.map(lambda x: x, params)  # new dictionaries, same arrays
    layer = layer_params(params, "encoder_01")
    attention = layer["compression"]["attention"]
    if kind == "dead":
        layer["sparsification"]["ista_norm"]["bias"] -= 100.0
    if kind == "alike":
        layer["sparsification"]["ista_norm"]["bias"] += 100.0
    if kind == "coincide":
        attention["subspaces"] = attention["subspaces"].at[:, 8:16].set(2 * attention["subspaces"][:, :8])
    if kind == "collapsed":  # one long code: a token that happens to lie along one direction attracts all
        attention["subspaces"] = jnp.ones_like(attention["subspaces"]) * jnp.arange(32)[:, None]
    if kind == "not a finite":
        attention["output_bias"] += jnp.nan
    return params | {"encoder": jax.tree.map(lambda stack, one: stack.at[1].set(one), params["encoder"], layer)}


@pytest.mark.parametrize("kind", ["dead", "alike", "coincide", "collapsed", "not a finite"])
def test_what_was_broken_is_named(network, kind):
    params, measure = network
    found = alarms(measure(broken(params, kind)))
    assert any(kind in sentence and "encoder layer 1" in sentence for sentence in found), found


def test_features_that_get_worse_while_the_loss_falls(network):
    params, measure = network
    fresh = measure(params)
    early = {**fresh, "loss": 1.0}
    late = {**early, "loss": 0.5, "feature_rank": np.asarray(early["feature_rank"]) / 2}
    found = alarms(late, earlier=early)
    assert len(found) == 1 and "worse while the loss fell from 1 to 0.5" in found[0]
    assert alarms({**late, "loss": 1.5}, earlier=early) == []  # the loss did not fall: nothing is hidden by it
    assert alarms({**early, "loss": 0.5}, earlier=early) == []
    assert alarms(late) == [] and alarms({}) == []
