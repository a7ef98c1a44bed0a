"""Sparsification: one proximal step of non-negative LASSO against a learned dictionary.

    ISTA(z | D) = argmin over a >= 0, linearised at a = z, of  1/2 ||z - D a||^2 + lambda ||a||_1
                = ReLU(z + eta D^T (z - D z) - eta lambda)

Pai et al. 2024 (arXiv 2404.02446), section 2. Tokens are rows here: D z becomes z D^T.
"""

import jax
import jax.numpy as jnp

from crate_jax.operators.affine import product


def ista(z_BxNxD, dictionary_DxD, *, step_size, sparsity):
    """One ISTA step from z towards a non-negative sparse code of z.

    Two products instead of the textbook's three: D^T z - D^T D z = D^T (z - D z).

    Args:
        z_BxNxD: tokens, f32 or bf16.
        dictionary_DxD: D, atoms in columns, f32; rounded to the type of z for the products.
        step_size: eta; a descent step if below 1 / ||D||^2, which nothing enforces.
        sparsity: lambda, in units of z.

    Returns:
        The code, same shape and type, non-negative.
    """
    residual_BxNxD = z_BxNxD - product(z_BxNxD, dictionary_DxD, transposed=True)
    return jax.nn.relu(z_BxNxD + step_size * (product(residual_BxNxD, dictionary_DxD) - sparsity))


def lasso_objective(code_BxNxD, z_BxNxD, dictionary_DxD, *, sparsity):
    """What ISTA descends on: 1/2 ||z - D a||^2 + lambda ||a||_1, for a >= 0.

    Args:
        code_BxNxD: a.
        z_BxNxD: the tokens that are to be coded.
        dictionary_DxD: D, atoms in columns.
        sparsity: lambda.

    Returns:
        objective_BxN, one number a token, f32.
    """
    code_BxNxD, z_BxNxD = code_BxNxD.astype(jnp.float32), z_BxNxD.astype(jnp.float32)
    residual_BxNxD = z_BxNxD - jnp.matmul(code_BxNxD, dictionary_DxD.T.astype(jnp.float32), precision="highest")
    return jnp.sum(jnp.square(residual_BxNxD), -1) / 2 + sparsity * jnp.sum(jnp.abs(code_BxNxD), -1)
