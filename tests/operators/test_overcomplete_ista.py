"""Overcomplete ISTA against float64 loops, the official CRATE-alpha layers, and LASSO's own inequalities."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from crate_jax.operators.affine import product
from crate_jax.operators.ista import lasso_objective
from crate_jax.operators.normalisation import layer_norm
from crate_jax.operators.overcomplete_ista import overcomplete_codes, overcomplete_ista
from crate_jax.operators.subspace_attention import attend


def textbook(x, dictionary, readout, eta, lam, steps):
    """(read-out, codes) of column vectors, one token after the other: a <- prox(a - eta grad f(a)), float64."""
    out, codes = np.empty_like(x), np.empty((*x.shape[:2], dictionary.shape[1]))
    for index in np.ndindex(x.shape[:2]):
        a = np.zeros(dictionary.shape[1])
        for _ in range(steps):
            gradient = dictionary.T @ (dictionary @ a) - dictionary.T @ x[index]
            a = a - eta * gradient - eta * lam
            a[a < 0] = 0
        codes[index], out[index] = a, readout @ a
    return out, codes


def problem(seed, width=6, atoms=24):
    rng = np.random.default_rng(seed)
    matrices = (rng.normal(size=(width, atoms)) / width**0.5 for _ in range(2))
    return rng.normal(size=(2, 5, width)), *matrices


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_equals_the_textbook(steps, dtype, tolerance):
    x, dictionary, readout = problem(0)
    how = {"step_size": 0.1, "sparsity": 0.2, "steps": steps}
    arrays = jnp.asarray(x, dtype), jnp.float32(dictionary)
    tokens, codes = textbook(x, dictionary, readout, 0.1, 0.2, steps)
    got = overcomplete_ista(*arrays, jnp.float32(readout), **how), overcomplete_codes(*arrays, **how)
    for ours, theirs in zip(got, (tokens, codes), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(np.asarray(ours, float), theirs, atol=tolerance * max(1, np.abs(theirs).max()))
    tied = overcomplete_ista(*arrays, arrays[1], **how)
    np.testing.assert_allclose(np.asarray(tied, float), codes @ dictionary.T, atol=20 * tolerance)


def test_equals_two_official_layers(white_box):
    """CRATE-alpha, values and gradients: z + MSSA(LN z), then z + D1 a(LN z), twice."""
    layers = [
        {key.removeprefix(f"alpha_layer{index}_"): value for key, value in white_box.items() if f"layer{index}" in key}
        for index in (0, 1)
    ]

    def stack(z, layers):
        for p in layers:
            norm = [(p[f"{name}_norm_scale"], p[f"{name}_norm_bias"]) for name in ("attention", "ista")]
            codes = product(layer_norm(z, *norm[0], epsilon=1e-6), p["subspaces_DxKP"])
            z = z + attend(codes, num_heads=3, scale=0.25, weight_KPxD=p["output_KPxD"])
            x = layer_norm(z, *norm[1], epsilon=1e-6)
            z = z + overcomplete_ista(x, p["dictionary_DxA"], p["dictionary_out_DxA"], step_size=0.1, sparsity=0.1)
        return z

    out, pull = jax.vjp(stack, white_box["alpha_in_BxNxD"], layers)
    np.testing.assert_allclose(out, white_box["alpha_out_BxNxD"], atol=1e-5)
    dz, slopes = pull(white_box["alpha_cotangent_BxNxD"])
    np.testing.assert_allclose(dz, white_box["alpha_grad_in_BxNxD"], atol=1e-5)
    compared = 0
    for layer, slope in zip(layers, slopes, strict=True):
        for key in [key for key in layer if key.startswith("grad_")]:
            want = layer[key]
            np.testing.assert_allclose(slope[key.removeprefix("grad_")], want, atol=1e-5 * np.abs(want).max())
            compared += 1
    assert compared == 6


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(st.floats(0.05, 0.99), st.floats(0, 1), st.integers(1, 5), st.integers(0, 50))
def test_every_step_descends_below_the_lipschitz_step(fraction, sparsity, steps, seed):
    """From a = 0, which is feasible, 1/2 ||x - D a||^2 + lambda |a|_1 never increases for eta < 1 / ||D||^2."""
    x, dictionary, _ = problem(seed)
    how = {"step_size": fraction / np.linalg.norm(dictionary, 2) ** 2, "sparsity": sparsity}
    x, dictionary = jnp.float32(x), jnp.float32(dictionary)
    before = overcomplete_codes(x, dictionary, **how, steps=steps)
    after = overcomplete_codes(x, dictionary, **how, steps=steps + 1)
    zero, before, after = (
        np.asarray(lasso_objective(a, x, dictionary, sparsity=sparsity))
        for a in (jnp.zeros_like(before), before, after)
    )
    assert np.all(before <= zero + 1e-5 * (1 + zero)) and np.all(after <= before + 1e-5 * (1 + before))


def test_many_steps_meet_the_optimality_conditions():
    """D^T (x - D a) = lambda on the support and <= lambda off it: the KKT conditions of non-negative LASSO."""
    x, dictionary, _ = problem(1)
    step = 1 / np.linalg.norm(dictionary, 2) ** 2
    codes = overcomplete_codes(jnp.float32(x), jnp.float32(dictionary), step_size=step, sparsity=0.3, steps=2000)
    codes = np.asarray(codes, float)
    pull = (x - codes @ dictionary.T) @ dictionary
    np.testing.assert_allclose(pull[codes > 1e-3], 0.3, atol=1e-3)
    assert np.all(pull < 0.3 + 1e-3) and 0 < np.mean(codes > 1e-3) < 0.5


def test_gradients():
    arrays = [jnp.float32(x) for x in problem(2)]
    check_grads(
        lambda *arrays: overcomplete_ista(*arrays, step_size=0.1, sparsity=0.1, steps=3),
        arrays, 1, modes=["rev"], atol=1e-2, rtol=1e-2,
    )  # fmt: skip


def test_parameters_get_float32_gradients_of_bf16_tokens():
    """Each gradient within bf16's three digits of the one in float32; the dictionary is used five times."""
    x, dictionary, readout = (jnp.float32(array) for array in problem(3, 16, 64))

    def slopes(x, tied):
        def total(dictionary, readout):
            out = overcomplete_ista(x, dictionary, dictionary if tied else readout, step_size=0.1, sparsity=0.1)
            return jnp.sum(jnp.sin(out.astype(jnp.float32)))

        return jax.jit(jax.grad(total, (0, 1)))(dictionary, readout)

    for tied in (True, False):
        for low, full in zip(slopes(x.astype(jnp.bfloat16), tied), slopes(x, tied), strict=True):
            assert low.dtype == jnp.float32
            assert jnp.linalg.norm(low - full) <= 0.03 * jnp.linalg.norm(full)


def test_no_step_is_refused():
    x, dictionary, readout = problem(4)
    with pytest.raises(ValueError, match="steps=0"):
        overcomplete_ista(x, dictionary, readout, step_size=0.1, sparsity=0.1, steps=0)
