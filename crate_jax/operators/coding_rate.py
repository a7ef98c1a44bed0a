"""The coding rate: the nats that it takes to code N tokens up to a distortion eps.

    R_eps(Z)       = 1/2       logdet(I + D/(N eps^2) Z^T Z)                  N tokens of length D
    R^c_eps(Z | U) = 1/2 sum_k logdet(I + P/(N eps^2) (U_k^T Z) (U_k^T Z)^T)  K subspaces of P dimensions

Pai et al. 2024 (arXiv 2404.02446), section 2; Ma et al. 2007 (lossy coding). Both determinants, of the N x N and the
P x P Gram matrix, are the same number (Sylvester); the smaller matrix is used. Rates are in nats, float32;
codes_BxNxKxP are the N tokens' coordinates U_k^T z in each of the K subspaces.
"""

from functools import partial

import jax
import jax.numpy as jnp

from crate_jax.operators.normalisation import unit_length

EPSILON = 0.5  # the default distortion
OFFICIAL_EPSILON = 0.01  # of the official layer script, which does not square it

_CHOLESKY_LIMIT = 1e5  # beyond, rounding of the Gram matrix (6e-8 of its trace) would swamp the identity
_GRADIENT_LIMIT = 1e6  # of a ||w||^2 in the gradient: rounding of the Gram matrix is then at most 6 % of the identity
_SMALL = 8  # a matrix of this size or less is factored row by row

_product = partial(jnp.matmul, precision="highest")  # on TPU a float32 product would else be made of bfloat16 passes


def logdet_gram(x_NxP, scale):
    """logdet(I + scale x^T x), by the smaller Gram matrix.

    Cholesky where float32 can form I + scale x^T x; where its trace is too large for that (tiny eps, huge tokens) a QR
    factorisation of [I; sqrt(scale) x], which never squares the numbers.

    Args:
        x_NxP: any leading axes may come before, and are the result's; computed in float32.
        scale: a non-negative number.
    """
    x_NxP = x_NxP.astype(jnp.float32)
    if x_NxP.shape[-2] < x_NxP.shape[-1]:
        x_NxP = jnp.swapaxes(x_NxP, -1, -2)
    identity_PxP = jnp.eye(x_NxP.shape[-1], dtype=jnp.float32)

    def by_cholesky(x_NxP):
        gram_PxP = jnp.einsum("...np,...nq->...pq", x_NxP, x_NxP, precision="highest")
        factor_PxP = jnp.linalg.cholesky(identity_PxP + scale * gram_PxP)
        return 2 * jnp.sum(jnp.log(jnp.diagonal(factor_PxP, axis1=-2, axis2=-1)), -1)

    def by_qr(x_NxP):
        top_PxP = jnp.broadcast_to(identity_PxP, (*x_NxP.shape[:-2], *identity_PxP.shape))
        stacked = jnp.concatenate([top_PxP, jnp.sqrt(jnp.float32(scale)) * x_NxP], -2)
        triangle_PxP = jnp.linalg.qr(stacked, mode="r")
        return 2 * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(triangle_PxP, axis1=-2, axis2=-1))), -1)

    largest = scale * jnp.max(jnp.sum(jnp.square(x_NxP), (-1, -2)))
    return jax.lax.cond(largest < _CHOLESKY_LIMIT, by_cholesky, by_qr, x_NxP)


def coding_rate(z_BxNxD, *, epsilon=EPSILON):
    """R_eps(Z) of B sets of N tokens, which are not normalised here: rate_B, 0 for tokens that are all zero.

    The distortion `epsilon` is in units of z.
    """
    num_tokens, width = z_BxNxD.shape[-2:]
    return logdet_gram(z_BxNxD, width / (num_tokens * epsilon**2)) / 2


def subspace_coding_rate(codes_BxNxKxP, *, epsilon=EPSILON):
    """R^c_eps(Z | U) from the codes, summed over the subspaces: rate_B.

    The distortion `epsilon` is in units of the codes.
    """
    num_tokens, size = codes_BxNxKxP.shape[-3], codes_BxNxKxP.shape[-1]
    codes_BxKxNxP = jnp.swapaxes(codes_BxNxKxP, -3, -2)
    return jnp.sum(logdet_gram(codes_BxKxNxP, size / (num_tokens * epsilon**2)), -1) / 2


def coding_rate_gradient(codes_BxNxKxP, *, epsilon=EPSILON):
    """The gradient of R^c_eps(Z | U) in the codes, in closed form.

        dR^c / dw_k = a w_k (I + a w_k^T w_k)^-1,    a = P/(N eps^2),    w_k = U_k^T z, tokens as rows

    In the tokens it is sum_k dR^c/dw_k U_k^T. A step against it below 1 / a descends in the codes. One factorisation
    per subspace, of the smaller Gram matrix, P x P or N x N. Where a ||w_k||_F^2 is above 1e6, float32 cannot hold
    I + a w_k^T w_k: there eps is raised, to where it is 1e6.

    Args:
        codes_BxNxKxP: float32 or bfloat16; computed in float32.
        epsilon: the distortion, in units of the codes.

    Returns:
        Shape and dtype of the codes; nats per unit of the codes.
    """
    num_tokens, size = codes_BxNxKxP.shape[-3], codes_BxNxKxP.shape[-1]
    x_BxKxNxP = jnp.swapaxes(codes_BxNxKxP, -3, -2).astype(jnp.float32)
    x_BxKxNxP = x_BxKxNxP.mT if num_tokens < size else x_BxKxNxP  # w (I + a w^T w)^-1 = (I + a w w^T)^-1 w
    scale = size / (num_tokens * epsilon**2)
    trace_BxKx1x1 = scale * jnp.sum(jnp.square(x_BxKxNxP), (-1, -2), keepdims=True)
    scale_BxKx1x1 = scale / jnp.maximum(1, trace_BxKx1x1 / _GRADIENT_LIMIT)
    gram_BxKxPxP = _product(x_BxKxNxP.mT, x_BxKxNxP)
    matrix_BxKxPxP = jnp.eye(x_BxKxNxP.shape[-1], dtype=jnp.float32) + scale_BxKx1x1 * gram_BxKxPxP
    slope_BxKxNxP = scale_BxKx1x1 * solve_from_one(matrix_BxKxPxP, x_BxKxNxP)
    slope_BxKxNxP = slope_BxKxNxP.mT if num_tokens < size else slope_BxKxNxP
    return jnp.swapaxes(slope_BxKxNxP, -3, -2).astype(codes_BxNxKxP.dtype)


def solve_from_one(matrix_PxP, rows_NxP):
    """The rows x of x M = b for symmetric matrices M whose eigenvalues are at least 1; differentiable in both.

    Products only: LAPACK's batches wait for threads of the pool that they themselves run in, so that on a CPU as many
    independent ones as there are cores can wait for each other without end (jaxlib 0.10.2).

    Args:
        matrix_PxP: M; any leading axes may come before; float32.
        rows_NxP: b, with the same leading axes.

    Returns:
        Shape of `rows_NxP`. As accurate as Cholesky's solution: to about 6e-8 of M's largest eigenvalue.
    """
    factor_PxP = inverse_factor(jax.lax.stop_gradient(matrix_PxP))

    def solve(_, rows_NxP):
        return _product(_product(rows_NxP, factor_PxP.mT), factor_PxP)

    return jax.lax.custom_linear_solve(lambda x_NxP: _product(x_NxP, matrix_PxP), rows_NxP, solve, symmetric=True)


def inverse_factor(matrix_PxP):
    """The inverse X of the Cholesky factor, X^T X = M^-1, by halves.

        M = [A B; B^T C]:    X = [X_A 0; -X_S G^T X_A  X_S],    G = X_A B,    S = C - G^T G

    A and S have eigenvalues of at least 1 where M has. G is as small as the root of M's largest eigenvalue; A^-1 B in
    its place would lose twice the digits. Any leading axes may come before M's; float32; X is lower triangular.
    """
    size = matrix_PxP.shape[-1]
    if size <= _SMALL:
        return _inverse_factor_by_rows(matrix_PxP)
    half = size // 2
    top_HxH, side_HxR, rest_RxR = (
        matrix_PxP[..., :half, :half], matrix_PxP[..., :half, half:], matrix_PxP[..., half:, half:],
    )  # fmt: skip
    top_HxH = inverse_factor(top_HxH)
    gain_HxR = _product(top_HxH, side_HxR)
    rest_RxR = inverse_factor(rest_RxR - _product(gain_HxR.mT, gain_HxR))
    corner_RxH = -_product(rest_RxR, _product(gain_HxR.mT, top_HxH))
    return jnp.block([[top_HxH, jnp.zeros_like(side_HxR)], [corner_RxH, rest_RxR]])


def _inverse_factor_by_rows(matrix_PxP):
    """The same by elimination of [M I]: row k, over its pivot, is taken from the rows below."""
    size = matrix_PxP.shape[-1]
    position_P, identity_PxP = jnp.arange(size), jnp.broadcast_to(jnp.eye(size, dtype=jnp.float32), matrix_PxP.shape)

    def eliminate(k, both_Px2P):
        row_1x2P = jax.lax.dynamic_index_in_dim(both_Px2P, k, -2)
        column_Px1 = row_1x2P[..., :size].mT  # what is left of M is symmetric
        pivot_1x1 = jnp.sum(jnp.where(position_P[:, None] == k, column_Px1, 0), -2, keepdims=True)
        return both_Px2P - jnp.where(position_P[:, None] > k, column_Px1, 0) / pivot_1x1 * row_1x2P

    both_Px2P = jax.lax.fori_loop(0, size, eliminate, jnp.concatenate([matrix_PxP, identity_PxP], -1))
    pivot_Px1 = jnp.sum(both_Px2P[..., :size] * identity_PxP, -1, keepdims=True)
    return both_Px2P[..., size:] * jax.lax.rsqrt(pivot_Px1)


def official_coding_rate(codes_BxNxKxP, *, epsilon=OFFICIAL_EPSILON):
    """The official layer script's variant of R^c: unit codes, and an eps that is not squared; rate_B.

        1/2 sum_k logdet(I + P/(N eps) W_k^T W_k),   every column of W_k = U_k^T Z scaled to length one

    Ma-Lab-Berkeley/CRATE, `vis_utils/coding_rate.py`; `epsilon` is as the script takes it. A code of length zero counts
    as zero (the script gives NaN).
    """
    return subspace_coding_rate(unit_length(codes_BxNxKxP), epsilon=epsilon**0.5)


def features_coding_rate(latent_BxTxD, *, epsilon=EPSILON):
    """R_eps of the features of a batch: of each image the mean of its patches' tokens, scaled to length one.

    What MCR^2 (Yu et al. 2020, arXiv 2006.08558) and SimDINO (Wu et al. 2025, arXiv 2502.10385) maximise, so that
    features spread over all directions. At most B/2 log(1 + D/(B eps^2)) for B images of which B <= D.

    Args:
        latent_BxTxD: B images' tokens, the class token first.
        epsilon: the distortion; features have length one.
    """
    mean_BxD = jnp.mean(latent_BxTxD[:, 1:].astype(jnp.float32), 1)
    return coding_rate(unit_length(mean_BxD), epsilon=epsilon)
