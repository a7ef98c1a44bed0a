"""The position table entry by entry, and its resize against PyTorch's definition of bicubic interpolation."""

import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.operators.positions import bicubic_matrix, resize_positions, sincos_positions


def test_table():
    """Half for the column, then half for the row; sines, then cosines; the class token's row is zero."""
    rows, columns, width = 3, 5, 16
    table = sincos_positions((rows, columns), width)
    want = np.zeros((rows * columns + 1, width))
    for y, x in np.ndindex(rows, columns):
        for half, place in enumerate((x, y)):
            for i in range(width // 4):
                angle = place * 10000.0 ** (-i / (width / 4))
                want[1 + y * columns + x, half * 8 + i] = np.sin(angle)
                want[1 + y * columns + x, half * 8 + 4 + i] = np.cos(angle)
    np.testing.assert_allclose(table, want, atol=1e-6)
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_positions((2, 2), 6)


def cubic(t, a=-0.75):
    """Keys' kernel as PyTorch writes it."""
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


@pytest.mark.parametrize(("old", "new"), [(4, 6), (14, 24), (6, 4), (3, 3), (1, 5)])
def test_bicubic_by_definition(old, new):
    """upsample_bicubic2d with scale_factor (new + 0.1) / old: half-pixel centres, indices clamped at the border."""
    weights = np.zeros((new, old))
    for i in range(new):
        source = (i + 0.5) / ((new + 0.1) / old) - 0.5
        base = int(np.floor(source))
        for j in range(base - 1, base + 3):
            weights[i, min(max(j, 0), old - 1)] += cubic(source - j)
    np.testing.assert_allclose(bicubic_matrix(old, new), weights, atol=1e-12)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)


def test_resize_equals_pytorch():
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).normal(size=(4 * 4 + 1, 8)).astype(np.float32)
    picture = torch.from_numpy(table[1:].reshape(1, 4, 4, 8)).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(picture, scale_factor=(6.1 / 4, 9.1 / 4), mode="bicubic")
    want = resized.permute(0, 2, 3, 1).reshape(-1, 8).numpy()
    for table_like in (table, jnp.asarray(table)):
        got = resize_positions(table_like, (4, 4), (6, 9))
        np.testing.assert_allclose(got[1:], want, atol=1e-5)
        np.testing.assert_array_equal(got[:1], table[:1])
        assert isinstance(got, type(table_like))
    assert resize_positions(table, (4, 4), (4, 4)) is table
