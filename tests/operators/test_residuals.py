"""What a rematerialised layer saves and what it computes again: counted in the traced program, nothing is run."""

import collections
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.ad_checkpoint import saved_residuals

from crate_jax.operators.affine import product
from crate_jax.operators.contract_broadcast import contract_broadcast_attention
from crate_jax.operators.ista import ista
from crate_jax.operators.normalisation import layer_norm
from crate_jax.operators.overcomplete_ista import overcomplete_ista
from crate_jax.operators.residuals import NAMED_RESIDUALS, name_residual
from crate_jax.operators.subspace_attention import attend, split_heads
from crate_jax.operators.token_statistics import token_statistics_attention

LAYERS, IMAGES, TOKENS, WIDTH, HEADS, ATOMS = 3, 2, 37, 16, 2, 64
NAMES = jax.checkpoint_policies.save_only_these_names(*NAMED_RESIDUALS)


def norm(z):
    return layer_norm(z, jnp.ones(WIDTH), jnp.zeros(WIDTH), epsilon=1e-6)


def compression(kernel):
    """z + MSSA, TSSA or CBSA of LN(z)."""

    def step(z, p):
        codes = product(norm(z), p["subspaces"])
        if kernel in ("tssa", "cbsa"):
            codes = split_heads(codes, HEADS)
            if kernel == "tssa":
                moved = token_statistics_attention(codes, p["per_head"])
            else:
                steps = {"step_tokens_K": p["per_head"], "step_representatives_K": p["per_head"]}
                moved = contract_broadcast_attention(codes, (6, 6), **steps, pool=3)
            return z + name_residual(product(moved.reshape(z.shape), p["output"]), "compressed")
        return z + attend(codes, num_heads=HEADS, scale=0.35, kernel=kernel, weight_KPxD=p["output"])

    return step


def sparsification(z, p):
    return ista(norm(z), p["dictionary"], step_size=0.1, sparsity=0.1)


def overcomplete(z, p):
    x = norm(z)
    return z + overcomplete_ista(x, p["atoms"], p["readout"], step_size=0.1, sparsity=0.1, steps=3)


def decoder(z, p):
    return compression("xla")(name_residual(product(norm(z), p["dictionary"]), "mapped"), p)


def encoder(kernel):
    return lambda z, p: sparsification(compression(kernel)(z, p), p)


def parameters():
    shapes = dict.fromkeys(("subspaces", "output", "dictionary"), (LAYERS, WIDTH, WIDTH))
    shapes |= dict.fromkeys(("atoms", "readout"), (LAYERS, WIDTH, ATOMS)) | {"per_head": (LAYERS, HEADS)}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {name: jax.random.normal(key, shape) / 4 for key, (name, shape) in zip(keys, shapes.items(), strict=True)}


def stack(layer, policy, scan):
    """(tokens, stacked parameters) to a number."""
    if policy is not None:
        layer = jax.checkpoint(layer, policy=policy, prevent_cse=not scan)

    def run(z, params):
        if scan:
            z = jax.lax.scan(lambda z, p: (layer(z, p), None), z, params)[0]
        else:
            for index in range(LAYERS):
                z = layer(z, jax.tree.map(lambda leaf, index=index: leaf[index], params))
        return jnp.sum(jnp.sin(z.astype(jnp.float32)))

    return run


def residuals(layer, policy, dtype, scan):
    """(shape without the layer axis, dtype) of every residual as large as the tokens -> how many per layer."""
    found = collections.Counter()
    tokens, weights = jnp.ones((IMAGES, TOKENS, WIDTH), dtype), parameters()
    for array, _ in saved_residuals(stack(layer, policy, scan), tokens, weights):
        if math.prod(array.shape) < IMAGES * TOKENS * WIDTH or array.shape[-2:] in {
            w.shape[-2:] for w in weights.values()
        }:
            continue
        stacked = array.shape[0] == LAYERS and array.ndim > 3
        found[array.shape[stacked:], str(array.dtype)] += LAYERS if stacked else 1
    return found


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", ["xla", "recompute", "image_by_image", "pallas", "tssa", "cbsa"])
def test_an_encoder_layer_saves_its_input_what_compression_adds_and_a_mask(kernel, dtype, scan):
    found = residuals(encoder(kernel), NAMES, dtype, scan)
    tokens = (IMAGES, TOKENS, WIDTH)
    last = 1  # the cosine of the loss
    wanted = {(tokens, dtype): 2 * LAYERS, (tokens, "bool"): LAYERS}
    found[tokens, "float32"] -= last
    assert {key: count for key, count in found.items() if count} == wanted


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("layer", "arrays"), [(decoder, 2), (overcomplete, 3)], ids=["decoder", "overcomplete"])
def test_other_layers_save_named_values_alone(layer, arrays, dtype):
    """Decoder: input and linear map. Overcomplete, three steps: input and two reconstruction errors."""
    found = residuals(layer, NAMES, dtype, True)
    found[(IMAGES, TOKENS, WIDTH), "float32"] -= 1  # the cosine of the loss
    assert {key: count for key, count in found.items() if count} == {((IMAGES, TOKENS, WIDTH), dtype): arrays * LAYERS}


def flops(jaxpr):
    """Of all matrix products in a traced program, those of loops and of custom derivatives included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * flops(inner)
    return total


SQUARE, SCORES, ATOM = 2 * WIDTH**2, 4 * TOKENS * WIDTH, 2 * WIDTH * ATOMS


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("layer", "per_token"),
    [
        (encoder("xla"), 2 * SQUARE + SCORES),
        (encoder("tssa"), 2 * SQUARE),
        (decoder, SQUARE + SCORES),
        (overcomplete, 3 * ATOM),
    ],
    ids=["mssa", "tssa", "decoder", "overcomplete"],
)
def test_recomputation_is_the_documented_arithmetic(layer, per_token, dtype):
    def cost(policy):
        run = jax.grad(stack(layer, policy, True), (0, 1))
        return flops(jax.make_jaxpr(run)(jnp.ones((IMAGES, TOKENS, WIDTH), dtype), parameters()).jaxpr)

    assert cost(NAMES) - cost(None) == LAYERS * IMAGES * TOKENS * per_token


@pytest.mark.parametrize("layer", [encoder("xla"), decoder, overcomplete], ids=["encoder", "decoder", "overcomplete"])
def test_gradients_are_those_of_the_plain_layer(layer):
    tokens = jax.random.normal(jax.random.key(1), (IMAGES, TOKENS, WIDTH))
    plain, remat = (jax.jit(jax.grad(stack(layer, policy, True), (0, 1))) for policy in (None, NAMES))
    for a, b in zip(*(jax.tree.leaves(f(tokens, parameters())) for f in (plain, remat)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.max(jnp.abs(a))))


def test_a_name_that_no_policy_saves_is_refused():
    with pytest.raises(ValueError, match="'attention' is none of compressed"):
        name_residual(jnp.ones(3), "attention")
