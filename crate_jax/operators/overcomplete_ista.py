"""Overcomplete ISTA: proximal gradient steps of non-negative LASSO from a = 0, then a read-out of the codes.

    f(a)     = 1/2 ||x - D a||^2,                 D is D x A with A > D atoms
    a_0      = 0
    a_(t+1)  = ReLU(a_t - eta D^T (D a_t - x) - eta lambda)
    read-out = D1 a_steps                         tied: D1 = D;   decoupled: D1 is learned as well

Yang et al. 2024 (CRATE-alpha, arXiv 2405.20299), with two steps, A = 4 D and eta = lambda = 0.1. Tokens are rows here:
D a is `a @ D.T`. The residual connection around the step belongs to the layer.
"""

import jax

from crate_jax.operators.affine import product
from crate_jax.operators.residuals import name_residual


def overcomplete_codes(x_BxNxD, dictionary_DxA, *, step_size, sparsity, steps=2):
    """Sparse codes of the tokens after some proximal gradient steps from zero.

    Args:
        x_BxNxD: tokens, float32 or bfloat16.
        dictionary_DxA: D, atoms in columns, float32; rounded to the dtype of x for the products.
        step_size: eta. The LASSO objective descends if below 1 / ||D||_2^2; not enforced.
        sparsity: lambda, in units of x.
        steps: proximal steps, at least 1.

    Returns:
        a_BxNxA: non-negative codes, dtype of `x_BxNxD`.

    Raises:
        ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: overcomplete ISTA takes at least one step")
    codes_BxNxA = jax.nn.relu(step_size * (product(x_BxNxD, dictionary_DxA) - sparsity))
    for _ in range(steps - 1):
        error_BxNxD = name_residual(x_BxNxD - product(codes_BxNxA, dictionary_DxA, transposed=True), "error")
        codes_BxNxA = jax.nn.relu(codes_BxNxA + step_size * (product(error_BxNxD, dictionary_DxA) - sparsity))
    return codes_BxNxA


def overcomplete_ista(x_BxNxD, dictionary_DxA, readout_DxA, *, step_size, sparsity, steps=2):
    """The tokens that the sparse codes stand for: D1 a.

    Args:
        x_BxNxD, dictionary_DxA, step_size, sparsity, steps: as in `overcomplete_codes`.
        readout_DxA: D1, float32; `dictionary_DxA` itself for a tied read-out.

    Returns:
        Shape and dtype of `x_BxNxD`; no residual is added.

    Raises:
        ValueError: fewer than one step.
    """
    how = {"step_size": step_size, "sparsity": sparsity, "steps": steps}
    return product(overcomplete_codes(x_BxNxD, dictionary_DxA, **how), readout_DxA, transposed=True)
