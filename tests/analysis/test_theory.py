"""The paper's claims, tested where they should hold, and shown to fail where they should fail."""

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.analysis import theory
from crate_jax.operators.coding_rate import subspace_coding_rate
from crate_jax.operators.ista import ista
from crate_jax.operators.normalisation import layer_norm
from crate_jax.operators.subspace_attention import split_heads


def test_posterior_mean_is_the_best_estimate():
    """By brute force in two dimensions: the mean over a grid of (k, a), weighted by prior and likelihood."""
    subspaces = np.eye(2, dtype=np.float32)  # two lines: the axes
    x, noise = np.array([[1.2, 0.3], [0.4, -0.5]], np.float32), 0.6
    a = np.linspace(-8, 8, 4001)
    want = []
    for point in x.astype(np.float64):
        numerator, total = np.zeros(2), 0.0
        for k in range(2):
            place = np.outer(a, np.eye(2)[k])
            weight = np.exp(-(a**2) / 2 - ((point - place) ** 2).sum(1) / (2 * noise**2))
            numerator += (weight[:, None] * place).sum(0)
            total += weight.sum()
        want.append(numerator / total)
    got = theory.posterior_mean(jnp.asarray(x), jnp.asarray(subspaces), num_heads=2, noise=noise)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_compression_is_denoising():
    """One MSSA step moves noisy tokens to their subspace, towards the posterior mean as noise falls. Not everywhere:

    in heavy noise the softmax no longer knows the subspace, and in next to none it still mixes tokens a little.
    """
    errors = theory.denoising_errors([0.02, 0.1, 0.3, 3.0])
    assert np.all(errors["posterior"] <= np.minimum(errors["noisy"], errors["mssa"]) + 1e-6)
    assert np.all(errors["mssa"][1:3] < 0.6 * errors["noisy"][1:3])
    assert np.all(errors["outside_mssa"][1:3] < 0.3 * errors["outside_noisy"][1:3])
    gap = errors["mssa"] - errors["posterior"]
    assert gap[0] < gap[1] < gap[2] < gap[3] and gap[0] < 0.01
    assert errors["mssa"][3] > 3 * errors["posterior"][3]
    assert errors["mssa"][0] > errors["noisy"][0]


def tokens(noise=0.1):
    return theory.mixture_of_subspaces(jax.random.key(1), num_tokens=64, width=32, num_heads=4, noise=noise)


def test_mssa_follows_the_gradient_of_the_rate():
    noisy, _, _, subspaces = tokens()
    z = noisy.astype(jnp.float32)
    got = theory.mssa_against_gradient(z, subspaces, [0.1, 10.0, 20.0, 40.0], num_heads=4)
    for epsilon in (0.05, 0.5):  # the closed form against autodiff of the operator

        def rate(z, epsilon=epsilon):
            return subspace_coding_rate(split_heads(z @ subspaces, 4), epsilon=epsilon)

        want = jax.jit(jax.grad(rate))(z)
        exact = theory.gradient_of_rate(z, subspaces, num_heads=4, epsilon=epsilon)
        np.testing.assert_allclose(exact, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())
    error = got["neumann_error"]
    assert error[3] < 1e-3 and 12 < error[1] / error[2] < 20  # second order in a, that is eps^-4
    assert error[0] > 1  # and worth nothing at a small eps
    assert np.all(got["mssa_cosine"][1:] > 0)  # (1 - c) z + c MSSA(z) descends
    assert np.all(got["added_cosine"][1:] < 0)  # z + MSSA(z) climbs: what the skip connection does


def normed_rate(z, gain, shift, subspaces, heads, epsilon):
    """R^c(LN(Z) | U) in float64 NumPy."""
    x = z - z.mean(1, keepdims=True)
    x = x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5) * gain + shift
    codes = (x @ subspaces).reshape(len(z), heads, -1)
    size = codes.shape[-1]
    factor = size / (len(z) * epsilon**2)
    return sum(np.linalg.slogdet(np.eye(size) + factor * w.T @ w)[1] for w in codes.swapaxes(0, 1)) / 2


def test_gradient_through_layer_norm():
    """Against central differences in float64; orthogonal to every token's length and mean, which LayerNorm removes."""
    rng = np.random.default_rng(0)
    z, gain, shift = 2 * rng.normal(size=(12, 16)) + 1, rng.uniform(0.5, 2, 16), rng.normal(size=16)
    subspaces = rng.normal(size=(16, 16)) / 4
    norm = {"scale": jnp.float32(gain), "bias": jnp.float32(shift)}
    got = theory.gradient_through_norm(jnp.float32(z), norm, jnp.float32(subspaces), num_heads=2, epsilon=0.5)
    got, want = np.asarray(got, np.float64), np.zeros_like(z)
    for place in np.ndindex(*z.shape):
        step = np.zeros_like(z)
        step[place] = 1e-5
        up, down = (normed_rate(z + sign * step, gain, shift, subspaces, 2, 0.5) for sign in (1, -1))
        want[place] = (up - down) / 2e-5
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
    lengths = np.linalg.norm(got, axis=1)
    centred = z - z.mean(1, keepdims=True)
    assert np.all(np.abs((got * centred).sum(1)) < 1e-4 * lengths * np.linalg.norm(centred, axis=1))
    assert np.all(np.abs(got.sum(1)) < 1e-4 * lengths * 4)


def test_gradient_at_the_normalised_tokens_is_another_direction():
    """On random tokens a third or more of its square lies along the tokens themselves, where the layer is blind."""
    z = jax.random.normal(jax.random.key(4), (64, 128))
    norm = {"scale": jnp.ones(128), "bias": jnp.zeros(128)}
    subspaces = jax.random.normal(jax.random.key(5), (128, 128)) / 128**0.5
    x = layer_norm(z, norm["scale"], norm["bias"], epsilon=1e-5)
    at = theory.gradient_of_rate(x, subspaces, num_heads=4, epsilon=0.5)
    through = theory.gradient_through_norm(z, norm, subspaces, num_heads=4, epsilon=0.5)
    radial = jnp.sum(at * x, -1) / jnp.linalg.norm(x, axis=-1)
    assert jnp.sum(radial**2) / jnp.sum(at**2) > 0.25
    assert theory.cosine(at, through) < 0.9


def test_ista_descends_below_its_step_and_not_beyond():
    z = jax.random.normal(jax.random.key(2), (20, 16))
    dictionary = jax.random.normal(jax.random.key(3), (16, 16)) / 4
    objective = theory.ista_objectives(z, dictionary, [0.3, 0.99, 4.0], sparsity=0.1, steps=30)
    assert objective.shape == (3, 31)
    assert np.all(np.diff(objective[:2], axis=1) <= 1e-5)
    assert objective[2].max() > objective[2, 0]
    same = theory.proximal_step(z, z, dictionary, step_size=0.1, sparsity=0.5)
    np.testing.assert_allclose(same, ista(z, dictionary, step_size=0.1, sparsity=0.5), atol=1e-5)


def test_a_decoder_step_reverses_to_second_order():
    noisy, _, _, subspaces = tokens()
    errors = theory.reversal_errors(noisy, subspaces, [0.01, 0.02, 1.0], num_heads=4)
    assert errors[0] < 1e-3 and 3.5 < errors[1] / errors[0] < 4.5
    assert errors[2] > 0.3  # at the official step of 1 it reverses nothing by itself
