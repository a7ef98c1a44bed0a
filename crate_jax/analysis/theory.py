"""The paper's claims as experiments on arrays: where each holds, and where it stops holding.

    compression is denoising     tokens x = U_k a + sigma w of known subspaces: one MSSA step against the exact
                                 posterior mean E[U_k a | x], as the noise falls
    MSSA descends on R^c         its direction against the exact gradient, and against the Neumann expansion
                                 a U w - a^2 U w w^T w, a = P/(N eps^2), that it is derived from
    ISTA descends                on 1/2 ||z - D a||^2 + lambda |a|_1, for steps below 1/L; beyond 2/L it need not
    a decoder step reverses      y - kappa MSSA(y) undoes z + kappa MSSA(z) up to a remainder of order kappa^2

Pai et al. 2024 (arXiv 2404.02446), sections 2 and 3. All arrays are f32; tokens are rows.
"""

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.operators.coding_rate import coding_rate_gradient
from crate_jax.operators.ista import lasso_objective
from crate_jax.operators.normalisation import layer_norm
from crate_jax.operators.subspace_attention import mssa, split_heads


def mixture_of_subspaces(key, *, num_tokens, width, num_heads, noise, size=None):
    """Noisy tokens of K random subspaces with orthonormal bases, orthogonal to one another.

        x = U_k a + noise w,    a ~ N(0, I_P), w ~ N(0, I_D), k uniform

    Args:
        key: a PRNG key.
        num_tokens: N.
        width: D.
        num_heads: K.
        noise: sigma, the deviation of each entry.
        size: P; None: D / K.

    Returns:
        (noisy_NxD, clean_NxD, member_N, subspaces_DxKP).
    """
    size = size or width // num_heads
    basis, members, codes, noises = jax.random.split(key, 4)
    subspaces_DxKP = jnp.linalg.qr(jax.random.normal(basis, (width, width)))[0][:, : num_heads * size]
    member_N = jax.random.randint(members, (num_tokens,), 0, num_heads)
    each_KxDxP = jnp.swapaxes(subspaces_DxKP.reshape(width, num_heads, size), 0, 1)
    code_NxP = jax.random.normal(codes, (num_tokens, size))
    clean_NxD = jnp.einsum("ndp,np->nd", each_KxDxP[member_N], code_NxP, precision="highest")
    noisy_NxD = clean_NxD + noise * jax.random.normal(noises, (num_tokens, width))
    return noisy_NxD, clean_NxD, member_N, subspaces_DxKP


def posterior_mean(x_NxD, subspaces_DxKP, *, num_heads, noise):
    """E[U_k a | x] under `mixture_of_subspaces`: no estimate of the clean tokens has a smaller squared error.

        sum_k p(k | x) U_k U_k^T x / (1 + sigma^2),     p(k | x) = softmax_k(||U_k^T x||^2 / (2 sigma^2 (1 + sigma^2)))

    Args:
        x_NxD: noisy tokens.
        subspaces_DxKP: orthonormal bases, side by side.
        num_heads: K.
        noise: sigma.

    Returns:
        mean_NxD.
    """
    codes_NxKxP = split_heads(jnp.matmul(x_NxD, subspaces_DxKP, precision="highest"), num_heads)
    variance = noise**2
    weight_NxK = jax.nn.softmax(jnp.sum(codes_NxKxP**2, -1) / (2 * variance * (1 + variance)), -1)
    mean_NxKxP = weight_NxK[..., None] * codes_NxKxP / (1 + variance)
    return jnp.matmul(mean_NxKxP.reshape(x_NxD.shape[0], -1), subspaces_DxKP.T, precision="highest")


def denoising_errors(noises, *, num_tokens=256, width=128, num_heads=4, scale=0.5, key=None):
    """Compression as denoising: squared error a token against the clean one, relative to the clean one's size.

    Args:
        noises: values of sigma.
        num_tokens, width, num_heads: N, D, K.
        scale: of MSSA's logits; the paper's is 1, the official code's P^-1/2.
        key: a PRNG key.

    Returns:
        A dictionary of arrays with one entry a sigma: `noise`, `noisy` (nothing done), `mssa` (one full step: z is
        replaced by MSSA(z)), `half` (half a step), `posterior` (the best there is), and `outside_noisy`,
        `outside_mssa`: the share of a token's energy outside its own subspace.
    """
    key = jax.random.key(0) if key is None else key

    @jax.jit
    def one(noise):
        x, clean, member, subspaces = mixture_of_subspaces(
            key, num_tokens=num_tokens, width=width, num_heads=num_heads, noise=noise
        )
        step = mssa(x[None], subspaces, num_heads=num_heads, scale=scale)[0]
        best = posterior_mean(x, subspaces, num_heads=num_heads, noise=noise)
        energy = jnp.sum(clean**2)

        def outside(z):
            codes = split_heads(z @ subspaces, num_heads)
            own = jnp.take_along_axis(codes, member[:, None, None], 1)[:, 0]
            return 1 - jnp.sum(own**2) / jnp.sum(z**2)

        def error(z):
            return jnp.sum((z - clean) ** 2) / energy

        return {
            "noisy": error(x), "mssa": error(step), "half": error((x + step) / 2), "posterior": error(best),
            "outside_noisy": outside(x), "outside_mssa": outside(step),
        }  # fmt: skip

    rows = [one(jnp.float32(noise)) for noise in noises]
    return {"noise": np.asarray(noises), **{key: np.array([float(row[key]) for row in rows]) for key in rows[0]}}


def cosine(a, b):
    """Of two arrays as vectors."""
    return jnp.sum(a * b) / jnp.sqrt(jnp.sum(a * a) * jnp.sum(b * b) + 1e-30)


def gradient_of_rate(z_NxD, subspaces_DxKP, *, num_heads, epsilon):
    """grad R^c_eps(Z | U) = sum_k a w_k (I + a w_k^T w_k)^-1 U_k^T,   a = P/(N eps^2), w_k = Z U_k."""
    codes_NxKxP = split_heads(jnp.matmul(z_NxD, subspaces_DxKP, precision="highest"), num_heads)
    slope_NxKxP = coding_rate_gradient(codes_NxKxP, epsilon=epsilon)
    return jnp.matmul(slope_NxKxP.reshape(z_NxD.shape[0], -1), subspaces_DxKP.T, precision="highest")


def gradient_through_norm(z_NxD, norm, subspaces_DxKP, *, num_heads, epsilon, norm_epsilon=1e-5):
    """grad of R^c_eps(LN(Z) | U) with respect to Z, through the LayerNorm.

    A layer reads LN(z) and adds to z. LayerNorm removes a token's mean and length, so moves along them change nothing
    that the layer sees: this gradient is orthogonal to both, `gradient_of_rate` at LN(z) is not.

    Args:
        z_NxD: the tokens that the layer adds to.
        norm: a dictionary with its LayerNorm's `scale` and `bias`.
        subspaces_DxKP: bases, side by side.
        num_heads: K.
        epsilon: the distortion.
        norm_epsilon: of the LayerNorm.

    Returns:
        gradient_NxD.
    """
    normed_NxD, pull_back = jax.vjp(lambda z: layer_norm(z, norm["scale"], norm["bias"], epsilon=norm_epsilon), z_NxD)
    slope_NxD = gradient_of_rate(normed_NxD, subspaces_DxKP, num_heads=num_heads, epsilon=epsilon)
    return pull_back(slope_NxD.astype(normed_NxD.dtype))[0]


def neumann_gradient(z_NxD, subspaces_DxKP, *, num_heads, epsilon):
    """The same to second order in a: sum_k a (w_k - a w_k w_k^T w_k) U_k^T, which MSSA is derived from."""
    codes_NxKxP = split_heads(jnp.matmul(z_NxD, subspaces_DxKP, precision="highest"), num_heads)
    factor = codes_NxKxP.shape[-1] / (z_NxD.shape[0] * epsilon**2)
    similar = jnp.einsum("nkp,mkp,mkq->nkq", codes_NxKxP, codes_NxKxP, codes_NxKxP, precision="highest")
    slope = factor * (codes_NxKxP - factor * similar)
    return jnp.matmul(slope.reshape(z_NxD.shape[0], -1), subspaces_DxKP.T, precision="highest")


def mssa_against_gradient(z_NxD, subspaces_DxKP, epsilons, *, num_heads, scale=1.0, output=None):
    """How far MSSA and the Neumann expansion point down the slope of R^c, over eps.

    Args:
        z_NxD: tokens.
        subspaces_DxKP: bases of the subspaces.
        epsilons: distortions; the gradient depends on them, MSSA does not.
        num_heads: K.
        scale: of MSSA's logits.
        output: what the network adds to a token, NxD, if that is not MSSA by the tied projection.

    Returns:
        A dictionary with one entry an eps: `epsilon`, `neumann_error` (||expansion - gradient|| / ||gradient||),
        `mssa_cosine` (of MSSA(z) - z and the descent direction: the paper's (1 - c) z + c MSSA(z) moves so),
        `added_cosine` (of what is added, MSSA(z) or `output`, and the descent direction: z + MSSA(z), the official
        code's skip, moves so; negative: it climbs).
    """
    moved = mssa(z_NxD[None], subspaces_DxKP, num_heads=num_heads, scale=scale)[0]
    added = moved if output is None else output

    @jax.jit
    def one(epsilon, z_NxD, subspaces_DxKP, moved, added):  # XLA folds products of captured arrays, slowly
        exact = gradient_of_rate(z_NxD, subspaces_DxKP, num_heads=num_heads, epsilon=epsilon)
        series = neumann_gradient(z_NxD, subspaces_DxKP, num_heads=num_heads, epsilon=epsilon)
        return {
            "neumann_error": jnp.linalg.norm(series - exact) / jnp.linalg.norm(exact),
            "mssa_cosine": cosine(moved - z_NxD, -exact), "added_cosine": cosine(added, -exact),
        }  # fmt: skip

    rows = [one(jnp.float32(epsilon), z_NxD, subspaces_DxKP, moved, added) for epsilon in epsilons]
    return {"epsilon": np.asarray(epsilons), **{key: np.array([float(row[key]) for row in rows]) for key in rows[0]}}


def proximal_step(code_NxD, z_NxD, dictionary_DxD, *, step_size, sparsity):
    """ReLU(a + eta D^T (z - D a) - eta lambda): ISTA from any start a. From a = z it is the network's layer."""
    residual = z_NxD - jnp.matmul(code_NxD, dictionary_DxD.T, precision="highest")
    slope = jnp.matmul(residual, dictionary_DxD, precision="highest")
    return jax.nn.relu(code_NxD + step_size * (slope - sparsity))


def ista_objectives(z_NxD, dictionary_DxD, fractions, *, sparsity, steps):
    """The LASSO objective along repeated ISTA steps from the non-negative part of z.

    Args:
        z_NxD: what is coded.
        dictionary_DxD: D, atoms in columns.
        fractions: step sizes, in units of 1/L = 1/||D||^2.
        sparsity: lambda.
        steps: how many.

    Returns:
        objective_Fx(S+1), mean over tokens; the first column is the start.
    """
    lipschitz = jnp.linalg.norm(dictionary_DxD, 2) ** 2

    @jax.jit
    def descend(fraction, z_NxD, dictionary_DxD, lipschitz):
        def body(code, _):
            after = proximal_step(code, z_NxD, dictionary_DxD, step_size=fraction / lipschitz, sparsity=sparsity)
            return after, jnp.mean(lasso_objective(after, z_NxD, dictionary_DxD, sparsity=sparsity))

        start = jax.nn.relu(z_NxD)
        first = jnp.mean(lasso_objective(start, z_NxD, dictionary_DxD, sparsity=sparsity))
        return jnp.concatenate([first[None], jax.lax.scan(body, start, None, length=steps)[1]])

    return np.stack([np.asarray(descend(jnp.float32(one), z_NxD, dictionary_DxD, lipschitz)) for one in fractions])


def reversal_errors(z_NxD, subspaces_DxKP, kappas, *, num_heads, scale=1.0):
    """How well y - kappa MSSA(y) undoes z + kappa MSSA(z): ||z - undone|| / ||z||, one entry a kappa."""

    @jax.jit
    def one(kappa, z_NxD, subspaces_DxKP):
        def moved(z):
            return mssa(z[None], subspaces_DxKP, num_heads=num_heads, scale=scale)[0]

        forward = z_NxD + kappa * moved(z_NxD)
        return jnp.linalg.norm(forward - kappa * moved(forward) - z_NxD) / jnp.linalg.norm(z_NxD)

    return np.array([float(one(jnp.float32(kappa), z_NxD, subspaces_DxKP)) for kappa in kappas])
