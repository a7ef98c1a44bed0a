"""Token statistics self-attention (TSSA): compression with second moments over the tokens, linear in their number.

    wn_kp  = w_kp / ||w_kp||                              norm over the tokens, channel by channel
    Pi_nk  = softmax over k of  temperature_k sum_p wn_nkp^2
    s_kp   = sum_n Pi_nk w_nkp^2 / (sum_n Pi_nk + 1e-8)
    TSSA_k = - Pi_nk w_nkp / (1 + s_kp)

Wu et al. 2024 (ToST, arXiv 2412.17810). A gradient step, up to its size, on a variational upper bound of R^c that
replaces logdet by the diagonal of the second moments; the minus sign is part of it.
"""

import jax
import jax.numpy as jnp

_SMALLEST_SQUARE = 1e-18  # of a channel over the tokens; its square must not underflow in the backward pass


def memberships(codes_BxNxKxP, temperature_K):
    """Pi_BxNxK, the probability that a token belongs to each subspace, float32; arguments as of the attention below."""
    square_BxNxKxP = jnp.square(codes_BxNxKxP.astype(jnp.float32))
    total_Bx1xKxP = jnp.maximum(jnp.sum(square_BxNxKxP, 1, keepdims=True), _SMALLEST_SQUARE)
    return jax.nn.softmax(temperature_K * jnp.sum(square_BxNxKxP / total_Bx1xKxP, -1), -1)


@jax.checkpoint  # elementwise work and sums: the codes are the only residual of their size
def token_statistics_attention(codes_BxNxKxP, temperature_K):
    """- Pi w / (1 + s) in every subspace; no array is larger than the codes.

    Args:
        codes_BxNxKxP: w, the tokens' coordinates U_k^T z, float32 or bfloat16; statistics and softmax are float32.
        temperature_K: one per subspace, float32; 1 at the start of training.

    Returns:
        Shape and dtype of the codes, before the output map.
    """
    membership_BxNxKx1 = memberships(codes_BxNxKxP, temperature_K)[..., None]
    codes32_BxNxKxP = codes_BxNxKxP.astype(jnp.float32)
    moment_Bx1xKxP = jnp.sum(membership_BxNxKx1 * jnp.square(codes32_BxNxKxP), 1, keepdims=True)
    moment_Bx1xKxP = moment_Bx1xKxP / (jnp.sum(membership_BxNxKx1, 1, keepdims=True) + 1e-8)
    return -(membership_BxNxKx1 * codes32_BxNxKxP / (1 + moment_Bx1xKxP)).astype(codes_BxNxKxP.dtype)
