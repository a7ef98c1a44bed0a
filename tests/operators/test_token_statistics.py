"""TSSA against float64 loops, the official ToST attention, and what its formula promises."""

import math
import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.ad_checkpoint import saved_residuals
from jax.test_util import check_grads

from crate_jax.operators.affine import affine, product
from crate_jax.operators.subspace_attention import split_heads
from crate_jax.operators.token_statistics import memberships, token_statistics_attention


def textbook(codes, temperature):
    """Image by image and subspace by subspace, float64."""
    images, _, heads, _ = codes.shape
    out = np.empty_like(codes)
    for b in range(images):
        unit = codes[b] / np.linalg.norm(codes[b], axis=0)
        logit = temperature * np.linalg.norm(unit, axis=2) ** 2
        pi = np.exp(logit) / np.exp(logit).sum(1)[:, None]
        for k in range(heads):
            w = codes[b, :, k]
            moment = np.diag(w.T @ np.diag(pi[:, k]) @ w) / (pi[:, k].sum() + 1e-8)
            out[b, :, k] = -np.diag(pi[:, k]) @ w @ np.diag(1 / (1 + moment))
    return out


def problem(seed, shape=(2, 9, 3, 4)):
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=shape), rng.uniform(0.5, 4, size=shape[2])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_equals_the_textbook(dtype, tolerance):
    codes, temperature = problem(0)
    got = token_statistics_attention(jnp.asarray(codes, dtype), jnp.float32(temperature))
    assert got.dtype == dtype
    np.testing.assert_allclose(np.asarray(got, float), textbook(codes, temperature), atol=tolerance)


def test_equals_the_official_layer(white_box):
    """ToST, values and gradients: the map with bias is applied to the heads side by side."""
    tokens = white_box["tssa_in_BxNxD"]

    def layer(tokens, subspaces, temperature):
        moved = token_statistics_attention(split_heads(product(tokens, subspaces), 3), temperature)
        return affine(moved.reshape(tokens.shape), white_box["tssa_output_KPxD"], white_box["tssa_output_bias_D"])

    arrays = tokens, white_box["tssa_subspaces_DxKP"], white_box["tssa_temperature_K"]

    @jax.jit
    def both(cotangent, *arrays):
        out, pull = jax.vjp(layer, *arrays)
        return out, pull(cotangent)

    out, slopes = both(white_box["tssa_cotangent_BxNxD"], *arrays)
    np.testing.assert_allclose(out, white_box["tssa_out_BxNxD"], atol=1e-5)
    names = ("tssa_grad_in_BxNxD", "tssa_grad_subspaces_DxKP", "tssa_grad_temperature_K")
    for got, name in zip(slopes, names, strict=True):
        np.testing.assert_allclose(got, white_box[name], atol=1e-5 * np.abs(white_box[name]).max())


@hypothesis.settings(deadline=None, max_examples=5)
@hypothesis.given(st.permutations(range(9)))
def test_permutation_equivariance(order):
    codes, temperature = (jnp.float32(x) for x in problem(1))
    out = token_statistics_attention(codes, temperature)
    permuted = token_statistics_attention(codes[:, np.array(order)], temperature)
    np.testing.assert_allclose(permuted, out[:, np.array(order)], atol=1e-5)


def test_memberships_are_probabilities_that_follow_energy():
    """A token that alone has energy in a subspace belongs to it, the more the higher the temperature's factor."""
    codes, temperature = problem(2)
    np.testing.assert_allclose(memberships(jnp.float32(codes), jnp.float32(temperature)).sum(-1), 1, atol=1e-6)
    codes[:, 0, 1:] = 0
    first = [memberships(jnp.float32(codes), jnp.full(3, t))[:, 0, 0] for t in (0.0, 1.0, 10.0)]
    np.testing.assert_allclose(first[0], 1 / 3, atol=1e-6)
    assert np.all(first[0] < first[1]) and np.all(first[1] < first[2])


def test_descends_the_bound_that_it_comes_from():
    """With memberships fixed, z + t TSSA lowers 1/2 sum_k n_k sum_p log(1 + s_kp) for small t; z - t TSSA raises it."""
    codes, temperature = problem(3, (1, 30, 3, 4))
    pi = np.asarray(memberships(jnp.float32(codes), jnp.float32(temperature)), float)[..., None]
    direction = np.asarray(token_statistics_attention(jnp.float32(codes), jnp.float32(temperature)), float)

    def bound(w):
        return (pi.sum(1) / 2 * np.log(1 + (pi * w**2).sum(1) / pi.sum(1))).sum()

    assert bound(codes + 1e-2 * direction) < bound(codes) < bound(codes - 1e-2 * direction)


def test_gradients_and_tokens_of_zero():
    codes, temperature = (jnp.float32(x) for x in problem(4))
    check_grads(jax.jit(token_statistics_attention), (codes, temperature), 1, modes=["rev"], atol=1e-2, rtol=1e-2)
    slope = jax.jit(jax.grad(lambda *x: jnp.sum(jnp.sin(token_statistics_attention(*x))), (0, 1)))
    slopes = slope(0 * codes, temperature)
    assert all(np.all(np.isfinite(slope)) for slope in slopes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_is_linear_in_tokens(dtype):
    """Nothing in the program, forward or backward, is larger than the codes; the codes are the only large residual."""
    codes, temperature = jnp.ones((1, 50, 3, 4), dtype), jnp.ones(3)

    def both(codes, temperature):
        out, pull = jax.vjp(token_statistics_attention, codes, temperature)
        return pull(out)

    arrays = re.findall(r"(?:f32|bf16|bool)\[([\d,]+)\]", str(jax.make_jaxpr(both)(codes, temperature)))
    assert max(math.prod(map(int, shape.split(","))) for shape in arrays) == codes.size
    residuals = [aval for aval, _ in saved_residuals(token_statistics_attention, codes, temperature)]
    assert [aval.dtype for aval in residuals if aval.size >= codes.size] == [codes.dtype]
