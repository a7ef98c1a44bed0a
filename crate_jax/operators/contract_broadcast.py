"""Contract-and-broadcast self-attention (CBSA): compression of a few representatives, broadcast to the tokens.

    R  = average pool of w to M = pool x pool representatives
    A  = softmax over tokens of (R w^T / sqrt P)                M x N
    R' = R + s_r A w                                            contract: representatives move towards tokens
    CBSA = s_x A^T softmax(R' R'^T / sqrt P) R'                 compress them, broadcast the result back

Wen et al. 2025 (arXiv 2509.16875), in every subspace; s_r and s_x are learned, one per subspace. Cost is linear in the
number of tokens N.
"""

import jax
import jax.numpy as jnp
import numpy as np

PATCHES = {"first": slice(1, None), "last": slice(0, -1), "none": slice(None)}  # by the class token's place


def _windows(size, bins):
    """bins x size of 0 and 1: the entries that PyTorch's adaptive average pool takes into each bin."""
    first, last = np.arange(bins) * size // bins, -(-(np.arange(bins) + 1) * size // bins)
    place = np.arange(size)
    return (place >= first[:, None]) & (place < last[:, None])


def _bins(num_tokens, grid, pool):
    """((rows, columns), (bins along each)) of the pool.

    Raises:
        ValueError: the tokens are not rows * columns.
    """
    (rows, columns), bins = (grid, (pool, pool)) if grid is not None else ((1, num_tokens), (1, pool * pool))
    if rows * columns != num_tokens:
        raise ValueError(f"{num_tokens} tokens do not fill a grid of {rows} x {columns}")
    return (rows, columns), bins


def pooling_windows(num_tokens, grid, pool=8, class_token="first"):
    """windows_MxN, bool: the tokens whose mean each representative is; arguments as of the attention below."""
    patches = np.arange(num_tokens)[PATCHES[class_token]]
    (rows, columns), bins = _bins(len(patches), grid, pool)
    windows_MxN = np.zeros((bins[0] * bins[1], num_tokens), bool)
    windows_MxN[:, patches] = np.kron(_windows(rows, bins[0]), _windows(columns, bins[1]))
    return windows_MxN


def pooled_representatives(codes_BxNxKxP, grid, pool=8):
    """Average pool of the patches' codes, with PyTorch's windows where the grid is not a multiple of `pool`.

    Args:
        codes_BxNxKxP: codes of the patches alone, row by row.
        grid: (rows, columns) with rows * columns = N, pooled to pool x pool; None: the N tokens are pooled in their
            order, as one row, to pool * pool runs (for masks that drop tokens).
        pool: representatives along each side.

    Returns:
        representatives_BxKxMxP, dtype of the codes, M = pool * pool; sums are float32.

    Raises:
        ValueError: N is not rows * columns.
    """
    num_images, num_tokens, num_heads, size = codes_BxNxKxP.shape
    (rows, columns), bins = _bins(num_tokens, grid, pool)
    by_row, by_column = _windows(rows, bins[0]), _windows(columns, bins[1])
    codes_BxRxCxKxP = codes_BxNxKxP.reshape(num_images, rows, columns, num_heads, size)
    # j first, as the product gives it: XLA's CPU backend (jax 0.7) does not run a bf16 product whose float32 result is
    # transposed
    in_row_JxBxRxKxP = jnp.einsum(
        "jc,brckp->jbrkp", by_column.astype(codes_BxNxKxP.dtype), codes_BxRxCxKxP,
        precision="highest", preferred_element_type=jnp.float32,
    )  # fmt: skip
    total_BxKxIxJxP = jnp.einsum("ir,jbrkp->bkijp", by_row.astype(np.float32), in_row_JxBxRxKxP, precision="highest")
    count_IxJ = np.outer(by_row.sum(1), by_column.sum(1)).astype(np.float32)
    mean_BxKxIxJxP = total_BxKxIxJxP / count_IxJ[..., None]
    return mean_BxKxIxJxP.reshape(num_images, num_heads, -1, size).astype(codes_BxNxKxP.dtype)


def contract_broadcast_attention(
    codes_BxNxKxP, grid, *, step_tokens_K, step_representatives_K, pool=8, class_token="first", kernel="auto", spec=None
):
    """s_x A^T softmax(R' R'^T / sqrt P) R' in every subspace; dispatches on `kernel`, the result is the same.

    Args:
        codes_BxNxKxP: w, the tokens' coordinates U_k^T z, float32 or bfloat16; softmaxes and sums are float32.
        grid, pool: as of `pooled_representatives`.
        step_tokens_K, step_representatives_K: s_x and s_r, float32.
        class_token: where it is: "first"; "none"; "last" pools the first N - 1 tokens, as the official code does
            although its class token is the first. It takes part in everything but the pool.
        kernel: "pallas" (`kernels.contract_broadcast_tpu`: the attention stays in VMEM and the codes are the only
            residual; other devices interpret it, slowly); any other is plain XLA.
        spec: how B x N x KP codes are sharded over the current mesh, a `PartitionSpec` whose axes divide B and K; only
            "pallas" needs it.

    Returns:
        Shape and dtype of the codes, before the output map.

    Raises:
        ValueError: the patches do not fill the grid; an unknown `class_token`.
        UserError: "pallas", and the attention of one head does not fit into VMEM.
    """
    if class_token not in PATCHES:
        raise ValueError(f"class_token={class_token!r}: one of {', '.join(PATCHES)}")
    if kernel == "pallas":
        from crate_jax.operators.kernels.contract_broadcast_tpu import contract_broadcast_tpu

        images, tokens, heads, size = codes_BxNxKxP.shape
        windows_MxN = jnp.asarray(pooling_windows(tokens, grid, pool, class_token))
        codes_BxNxKP = codes_BxNxKxP.reshape(images, tokens, heads * size)
        moved = contract_broadcast_tpu(codes_BxNxKP, step_tokens_K, step_representatives_K, windows_MxN, size, spec)
        return moved.reshape(codes_BxNxKxP.shape)
    dtype, scale = codes_BxNxKxP.dtype, codes_BxNxKxP.shape[-1] ** -0.5

    def times(equation, left, right):
        return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)

    start_BxKxMxP = pooled_representatives(codes_BxNxKxP[:, PATCHES[class_token]], grid, pool)
    attention_BxKxMxN = jax.nn.softmax(times("bkmp,bnkp->bkmn", start_BxKxMxP, codes_BxNxKxP) * scale, -1).astype(dtype)
    moved_BxKxMxP = step_representatives_K[:, None, None] * times("bkmn,bnkp->bkmp", attention_BxKxMxN, codes_BxNxKxP)
    representatives_BxKxMxP = (start_BxKxMxP.astype(jnp.float32) + moved_BxKxMxP).astype(dtype)
    scores_BxKxMxM = times("bkmp,bklp->bkml", representatives_BxKxMxP, representatives_BxKxMxP) * scale
    among_BxKxMxM = jax.nn.softmax(scores_BxKxMxM, -1).astype(dtype)
    compressed_BxKxMxP = times("bkml,bklp->bkmp", among_BxKxMxM, representatives_BxKxMxP).astype(dtype)
    back_BxNxKxP = times("bkmn,bkmp->bnkp", attention_BxKxMxN, compressed_BxKxMxP)
    return (step_tokens_K[:, None] * back_BxNxKxP).astype(dtype)
