"""Positions of patches: the fixed 2-D sine-cosine table of MAE, and its resize for other image sizes.

    [sin(x w), cos(x w), sin(y w), cos(y w)],   w_i = 10000^(-i / (D/4)),   x the column, y the row

He et al. 2022 (MAE); the class token's row is zero. The resize is PyTorch's bicubic kernel (a = -0.75, half-pixel
centres, border repeated, no antialiasing) at the scale (new + 0.1) / old that the official code inherits from DINO.
"""

import jax.numpy as jnp
import numpy as np


def sincos_positions(grid, width):
    """table_TxD for a grid of (rows, columns), float32, T = rows * columns + 1; row 0 is the class token's.

    Raises:
        ValueError: D is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width that is a multiple of 4, not {width}")
    rows, columns = grid
    frequency = 1.0 / 10000 ** (np.arange(width // 4, dtype=np.float64) / (width / 4))
    y_N, x_N = (index.reshape(-1) for index in np.mgrid[:rows, :columns])
    angles = [np.outer(place_N, frequency) for place_N in (x_N, y_N)]
    table_NxD = np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], 1)
    return np.concatenate([np.zeros((1, width)), table_NxD]).astype(np.float32)


def bicubic_matrix(old, new):
    """Weights of the 1-D resize of `old` points to `new`: new x old, float64, rows sum to one."""

    def kernel(distance, a=-0.75):
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))

    weights = np.zeros((new, old))
    source = (np.arange(new) + 0.5) * old / (new + 0.1) - 0.5
    for offset in (-1, 0, 1, 2):
        tap = np.floor(source) + offset
        np.add.at(weights, (np.arange(new), np.clip(tap, 0, old - 1).astype(int)), kernel(np.abs(source - tap)))
    return weights


def resize_positions(table_TxD, old_grid, new_grid):
    """The table for another grid of patches, in its dtype; the class token's row is kept.

    Works on a learned table as well (arrays of JAX or NumPy); the same grid returns the table untouched.
    """
    if tuple(old_grid) == tuple(new_grid):
        return table_TxD
    library, how = (np, {}) if isinstance(table_TxD, np.ndarray) else (jnp, {"precision": "highest"})
    by_row, by_column = (bicubic_matrix(*both).astype(np.float32) for both in zip(old_grid, new_grid, strict=True))
    patches = table_TxD[1:].reshape(*old_grid, -1)
    resized = library.einsum("ar,bc,rcd->abd", by_row, by_column, patches, **how)
    return library.concatenate([table_TxD[:1], resized.reshape(-1, table_TxD.shape[1])]).astype(table_TxD.dtype)
