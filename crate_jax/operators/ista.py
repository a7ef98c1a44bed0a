"""ISTA: one proximal gradient step of non-negative LASSO on a learned dictionary (sparsification).

    f(a)    = 1/2 ||z - D a||^2
    ISTA(z) = argmin_{a >= 0}  <grad f(z), a - z> + ||a - z||^2 / (2 eta) + lambda ||a||_1
            = ReLU(z + eta D^T (z - D z) - eta lambda)

Pai et al. 2024 (arXiv 2404.02446), section 2. Tokens are rows here: D z is `z @ D.T`.
"""

import jax.numpy as jnp

from crate_jax.operators.affine import product
from crate_jax.operators.residuals import name_residual


def ista(z_BxNxD, dictionary_DxD, *, step_size, sparsity):
    """One ISTA step started at the tokens themselves.

    Uses two matrix products instead of three: D^T z - D^T D z = D^T (z - D z).

    Args:
        z_BxNxD: tokens, float32 or bfloat16.
        dictionary_DxD: D, atoms in columns, float32; rounded to the dtype of z for the products.
        step_size: eta. A descent step if below 1 / ||D||_2^2; not enforced.
        sparsity: lambda, in units of z.

    Returns:
        Non-negative codes, shape and dtype of `z_BxNxD`.
    """
    error_BxNxD = z_BxNxD - product(z_BxNxD, dictionary_DxD, transposed=True)
    moved_BxNxD = z_BxNxD + step_size * (product(error_BxNxD, dictionary_DxD) - sparsity)
    # ReLU by its mask, in bool: all that its backward pass reads
    inactive_BxNxD = name_residual(moved_BxNxD <= 0, "inactive")
    return jnp.where(inactive_BxNxD, 0, moved_BxNxD)


def lasso_objective(code_BxNxD, z_BxNxD, dictionary_DxD, *, sparsity):
    """The objective that ISTA lowers: 1/2 ||z - D a||^2 + lambda ||a||_1, for a >= 0.

    Args:
        code_BxNxD: a, or B x N x A for a dictionary of A atoms.
        z_BxNxD, dictionary_DxD, sparsity: as of `ista`.

    Returns:
        objective_BxN, one number per token, float32.
    """
    code_BxNxD, z_BxNxD = code_BxNxD.astype(jnp.float32), z_BxNxD.astype(jnp.float32)
    residual_BxNxD = z_BxNxD - jnp.matmul(code_BxNxD, dictionary_DxD.T.astype(jnp.float32), precision="highest")
    return jnp.sum(jnp.square(residual_BxNxD), -1) / 2 + sparsity * jnp.sum(jnp.abs(code_BxNxD), -1)
