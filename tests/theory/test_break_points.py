"""The theory's claims about single layers, on data where they must hold, and the point beyond which they do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.operators.coding_rate import coding_rate_gradient, subspace_coding_rate
from crate_jax.operators.ista import ista, lasso_objective
from crate_jax.operators.overcomplete_ista import overcomplete_codes
from crate_jax.operators.subspace_attention import mssa, split_heads, subspace_attention_weights
from crate_jax.operators.token_statistics import token_statistics_attention

HEADS, SIZE, PER_CLASS = 3, 32, 30
WIDTH = HEADS * SIZE


@pytest.fixture(scope="module")
def subspaces():
    """Orthonormal bases [U_1 .. U_K] that fill the space."""
    return jnp.float32(np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0])


@pytest.fixture(scope="module")
def attention():
    return jax.jit(mssa, static_argnames=("num_heads", "scale"))


def mixture(subspaces, noise):
    """Tokens of a mixture of K subspaces, unit variance in their own and `noise` as deviation in the others."""
    rng = np.random.default_rng(1)
    member = np.repeat(np.arange(HEADS), PER_CLASS)
    codes = noise * rng.normal(size=(len(member), HEADS, SIZE))
    codes[np.arange(len(member)), member] /= noise
    return jnp.float32(codes.reshape(1, -1, WIDTH)) @ subspaces.T, member


def signal_to_noise(z, subspaces, member):
    """|U_k U_k^T Z_k| / |(I - U_k U_k^T) Z_k| of each class."""
    energy = np.asarray(jnp.sum(jnp.square(split_heads(z @ subspaces, HEADS)), -1))[0]
    own = np.array([energy[member == k, k].sum() for k in range(HEADS)])
    return np.sqrt(own / (np.array([energy[member == k].sum() for k in range(HEADS)]) - own))


@pytest.mark.parametrize(("eta", "tau"), [(0.1, 0.9), (0.5, 0.6)])
def test_attention_alone_raises_signal_to_noise_by_one_plus_eta_tau(subspaces, eta, tau):
    """Wang et al. 2025 (AoT, arXiv 2506.03790): by (1 + eta tau) per layer, where weights are tau above tau, else 0.

    In its own subspace a token's weight in itself is near 1 (|a|^2 is far above every <a, b>); in the others weights
    are near 1/N. Breaks down where noise alone makes them so, noise^2 P far above log N: it then grows as fast. And
    without the threshold, which networks do not have: the mean of finitely many tokens is added to the noise.
    """

    @jax.jit
    def step(z, threshold):
        codes = split_heads(z @ subspaces, HEADS)
        weights = subspace_attention_weights(codes, scale=1.0)
        weights = jnp.where(threshold > 0, threshold * (weights > threshold), weights)
        moved = jnp.einsum("bknm,bmkp->bnkp", weights, codes).reshape(z.shape)
        return z + eta * moved @ subspaces.T

    growth = {}
    for noise, threshold in ((0.1, tau), (1.0, tau), (0.1, 0.0)):
        z, member = mixture(subspaces, noise)
        before = signal_to_noise(z, subspaces, member)
        for _ in range(3):
            z = step(z, threshold)
        growth[noise, threshold] = signal_to_noise(z, subspaces, member) / before
    np.testing.assert_allclose(growth[0.1, tau], (1 + eta * tau) ** 3, rtol=1e-3)
    np.testing.assert_allclose(growth[1.0, tau], 1, rtol=0.02)
    assert np.all(growth[0.1, 0.0] < 0.9 * (1 + eta) ** 3)


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_mssa_with_its_skip_ascends_the_coding_rate(subspaces, attention, noise):
    """Hu, Zou, Xu 2024 (arXiv 2411.17182): z + t MSSA(z) raises R^c for every t > 0; z - t MSSA(z) lowers it.

    The negative variant breaks down beyond t = 2: where attention is close to the identity, it maps codes to (1 - t)
    times themselves.
    """
    z, _ = mixture(subspaces, noise)
    moved = attention(z, subspaces, num_heads=HEADS, scale=1.0)

    def rate(t):
        return float(subspace_coding_rate(split_heads((z + t * moved) @ subspaces, HEADS))[0])

    ascending = [rate(t) for t in (-1.0, -0.5, -0.1, 0.0, 0.1, 0.5, 1.0)]
    assert ascending == sorted(ascending) and ascending[-1] - ascending[0] > 1
    assert rate(-3.0) > rate(0.0)


@pytest.mark.parametrize("size", [1e-2, 1.0, 100.0])
def test_an_exact_gradient_step_descends_below_twice_its_scale(size):
    """w - t/a dR^c/dw with a = P/(N eps^2) descends for every t < 2, as the curvature of R^c is at most a.

    Breaks down beyond t = 2 where codes are small against eps, the curvature's maximum; large codes allow any t.
    """
    codes = jnp.float32(size * np.random.default_rng(2).normal(size=(1, 40, HEADS, 8)) / 10)
    a = 8 / (40 * 0.5**2)
    step = coding_rate_gradient(codes) / a

    def rate(t):
        return float(subspace_coding_rate(codes - t * step)[0])

    assert all(rate(t) < rate(0) for t in (0.1, 1.0, 1.9))
    assert (rate(2.2) > rate(0)) == (size == 1e-2)


def test_the_bound_of_tssa_is_tight_only_in_the_basis_that_diagonalises():
    """logdet(I + W^T W / N) <= sum_p log(1 + |w_p|^2 / N) (Wu et al. 2024, arXiv 2412.17810), one subspace.

    In the basis of its eigenvectors both sides agree, and TSSA is N times the descent direction of R^c at eps^2 = P.
    In another basis the bound is loose and TSSA points elsewhere.
    """
    rng = np.random.default_rng(3)
    codes = rng.normal(size=(50, 8)) * np.linspace(0.2, 4, 8)
    eigenvectors = np.linalg.eigh(codes.T @ codes)[1]
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    gap, error = {}, {}
    for name, basis in (("eigenvectors", eigenvectors), ("other", eigenvectors @ rotation)):
        w = jnp.float32(codes @ basis)[None, :, None]
        bound = 0.5 * float(jnp.sum(jnp.log1p(jnp.mean(jnp.square(w), 1))))
        gap[name] = bound - float(subspace_coding_rate(w, epsilon=8**0.5)[0])
        descent = -50 * coding_rate_gradient(w, epsilon=8**0.5)
        error[name] = float(jnp.linalg.norm(token_statistics_attention(w, jnp.ones(1)) - descent))
        error[name] /= float(jnp.linalg.norm(descent))
    assert abs(gap["eigenvectors"]) < 1e-4 and error["eigenvectors"] < 1e-4
    assert gap["other"] > 0.5 and error["other"] > 0.3


@pytest.fixture(scope="module")
def dictionary():
    """D, 6 x 6, symmetric and non-negative with norm 1.5, and its non-negative leading eigenvector."""
    square = np.random.default_rng(4).uniform(size=(6, 6))
    square = square @ square.T
    values, vectors = np.linalg.eigh(square)
    return jnp.float32(1.5 * square / values[-1]), jnp.float32(np.abs(vectors[:, -1]))


@pytest.mark.parametrize("fraction", [0.5, 0.99, 1.9, 2.1])
def test_ista_descends_up_to_twice_the_inverse_curvature(dictionary, fraction):
    """Always below 1/L, L = ||D||^2; on smooth parts up to 2/L; beyond, LASSO rises along the leading eigenvector."""
    matrix, leading = dictionary
    z = 3 * leading[None, None]
    code = ista(z, matrix, step_size=fraction / 1.5**2, sparsity=0.0)
    before, after = (float(lasso_objective(a, z, matrix, sparsity=0.0)[0, 0]) for a in (z, code))
    assert (after < before) == (fraction < 2)


@pytest.mark.parametrize("fraction", [0.5, 0.99, 1.9, 2.1])
def test_overcomplete_ista_descends_up_to_twice_the_inverse_curvature(dictionary, fraction):
    """The same from a = 0 on a dictionary of four copies, whose curvature is four times as large."""
    matrix, leading = dictionary
    copies = jnp.tile(matrix, (1, 4))
    x = (matrix @ leading)[None, None]
    codes = [jnp.zeros((1, 1, 24))]
    for steps in (1, 2, 3):
        how = {"step_size": fraction / (4 * 1.5**2), "sparsity": 0.0, "steps": steps}
        codes.append(overcomplete_codes(x, copies, **how))
    values = [float(lasso_objective(a, x, copies, sparsity=0.0)[0, 0]) for a in codes]
    assert (sorted(values, reverse=True) == values) == (fraction < 2)
    assert (values[1] < values[0]) == (fraction < 2)


def test_a_decoder_step_inverts_an_encoder_step_to_second_order(subspaces, attention):
    """y - t MSSA(y) at y = z + t MSSA(z) is z + O(t^2): half the step, a quarter of the error.

    Breaks down at the official step t = 1: the error is then as large as a third of the move or more.
    """
    z, _ = mixture(subspaces, 0.3)

    def move(z, t):
        return z + t * attention(z, subspaces, num_heads=HEADS, scale=SIZE**-0.5)

    error = {t: float(jnp.linalg.norm(move(move(z, t), -t) - z)) for t in (0.05, 0.1, 1.0)}
    assert 3.5 < error[0.1] / error[0.05] < 4.5
    assert error[1.0] > float(jnp.linalg.norm(move(z, 1.0) - z)) / 3
