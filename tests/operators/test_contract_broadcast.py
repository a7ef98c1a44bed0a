"""CBSA against float64 loops, the official attention, and PyTorch's adaptive average pool."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from crate_jax.operators.affine import affine, product
from crate_jax.operators.contract_broadcast import contract_broadcast_attention, pooled_representatives
from crate_jax.operators.subspace_attention import split_heads


def adaptive_pool(image_RxCxP, bins):
    """PyTorch's rule, bin by bin: from floor(i n / m) to ceil((i + 1) n / m)."""
    rows, columns = image_RxCxP.shape[:2]
    out = np.empty((*bins, image_RxCxP.shape[2]))
    for i, j in np.ndindex(*bins):
        top, bottom = int(np.floor(i * rows / bins[0])), int(np.ceil((i + 1) * rows / bins[0]))
        left, right = int(np.floor(j * columns / bins[1])), int(np.ceil((j + 1) * columns / bins[1]))
        out[i, j] = image_RxCxP[top:bottom, left:right].mean((0, 1))
    return out.reshape(-1, image_RxCxP.shape[2])


def softmax(x, axis):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def textbook(codes, patches, grid, pool, s_x, s_r):
    """Image by image, head by head, float64; `patches` says which tokens are pooled."""
    out = np.empty_like(codes)
    bins = (pool, pool) if grid else (1, pool * pool)
    for b, k in np.ndindex(codes.shape[0], codes.shape[2]):
        w = codes[b, :, k]
        pooled = w[patches]
        r = adaptive_pool(pooled.reshape(*(grid or (1, len(pooled))), -1), bins)
        a = softmax(r @ w.T / w.shape[1] ** 0.5, 1)
        r = r + s_r[k] * a @ w
        out[b, :, k] = s_x[k] * a.T @ softmax(r @ r.T / w.shape[1] ** 0.5, 1) @ r
    return out


PATCHES = {"first": slice(1, None), "last": slice(0, -1), "none": slice(None)}
SETTINGS = [((4, 6), "first", 2), ((4, 6), "last", 2), ((5, 7), "none", 3), ((2, 3), "first", 4), (None, "first", 2)]


def problem(seed, grid, class_token, heads=3, size=4):
    rng = np.random.default_rng(seed)
    tokens = (13 if grid is None else grid[0] * grid[1]) + (class_token != "none")
    return rng.normal(size=(2, tokens, heads, size)), rng.normal(size=heads), rng.normal(size=heads)


@pytest.mark.parametrize(("grid", "class_token", "pool"), SETTINGS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03)])
def test_equals_the_textbook(grid, class_token, pool, dtype, tolerance):
    codes, s_x, s_r = problem(0, grid, class_token)
    steps = {"step_tokens_K": jnp.float32(s_x), "step_representatives_K": jnp.float32(s_r)}
    got = contract_broadcast_attention(jnp.asarray(codes, dtype), grid, **steps, pool=pool, class_token=class_token)
    assert got.dtype == dtype
    want = textbook(codes, PATCHES[class_token], grid, pool, s_x, s_r)
    np.testing.assert_allclose(np.asarray(got, float), want, atol=tolerance * np.abs(want).max())


def test_equals_the_official_layer(white_box):
    """Values and gradients; the first N - 1 tokens are pooled, as that code has it."""
    tokens = white_box["cbsa_in_BxNxD"]
    steps = {f"step_{name}_K": white_box[f"cbsa_step_{name}_K"] for name in ("tokens", "representatives")}

    def layer(tokens, subspaces):
        codes = split_heads(product(tokens, subspaces), 3)
        moved = contract_broadcast_attention(codes, (16, 16), **steps, class_token="last")
        return affine(moved.reshape(tokens.shape), white_box["cbsa_output_KPxD"], white_box["cbsa_output_bias_D"])

    @jax.jit
    def both(cotangent, *arrays):
        out, pull = jax.vjp(layer, *arrays)
        return out, pull(cotangent)

    out, slopes = both(white_box["cbsa_cotangent_BxNxD"], tokens, white_box["cbsa_subspaces_DxKP"])
    np.testing.assert_allclose(out, white_box["cbsa_out_BxNxD"], atol=1e-5)
    names = ("cbsa_grad_in_BxNxD", "cbsa_grad_subspaces_DxKP")
    for got, name in zip(slopes, names, strict=True):
        np.testing.assert_allclose(got, white_box[name], atol=1e-5 * np.abs(white_box[name]).max())


def test_pool_is_the_block_mean_where_it_divides():
    codes = np.random.default_rng(1).normal(size=(2, 24, 3, 4))
    blocks = codes.reshape(2, 2, 2, 2, 3, 3, 4).mean((2, 4)).reshape(2, 4, 3, 4)
    got = pooled_representatives(jnp.float32(codes), (4, 6), 2)
    np.testing.assert_allclose(got, np.swapaxes(blocks, 1, 2), atol=1e-6)


def test_tokens_after_the_representatives_are_permutation_equivariant():
    """Swapping tokens within one pooling window swaps their outputs and changes nothing else."""
    codes, s_x, s_r = problem(2, (4, 4), "first")
    steps = {"step_tokens_K": s_x, "step_representatives_K": s_r, "pool": 2}
    order = np.arange(17)
    order[[1, 6]] = 6, 1  # patches (0, 0) and (1, 1)
    out = contract_broadcast_attention(jnp.float32(codes), (4, 4), **steps)
    swapped = contract_broadcast_attention(jnp.float32(codes[:, order]), (4, 4), **steps)
    np.testing.assert_allclose(swapped, out[:, order], atol=1e-5)
    order[[1, 3]] = order[[3, 1]]  # across windows the representatives change
    across = contract_broadcast_attention(jnp.float32(codes[:, order]), (4, 4), **steps)
    assert np.abs(across - out[:, order]).max() > 1e-2


def test_one_representative_of_equal_tokens():
    """All tokens equal w: R = w, R' = (1 + s_r) w, A = 1/N, so each token gets s_x (1 + s_r) w / N."""
    codes = np.broadcast_to(np.random.default_rng(3).normal(size=(1, 1, 2, 4)), (1, 10, 2, 4))
    s_x, s_r = np.array([0.5, -2.0]), np.array([1.0, 0.25])
    got = contract_broadcast_attention(
        jnp.float32(codes), (3, 3), step_tokens_K=s_x, step_representatives_K=s_r, pool=1
    )
    np.testing.assert_allclose(got, (s_x * (1 + s_r) / 10)[:, None] * codes, atol=1e-6)


def test_gradients():
    codes, s_x, s_r = (jnp.float32(x) for x in problem(4, (4, 6), "first"))

    @jax.jit
    def run(codes, s_x, s_r):
        return contract_broadcast_attention(codes, (4, 6), step_tokens_K=s_x, step_representatives_K=s_r, pool=2)

    check_grads(run, (codes, s_x, s_r), 1, modes=["rev"], atol=2e-2, rtol=2e-2)


def test_no_array_of_tokens_squared():
    """M representatives stand between the tokens: N x N never appears, forward or backward."""
    codes, s_x, s_r = (jnp.float32(x) for x in problem(5, (10, 10), "first"))

    def loss(codes):
        moved = contract_broadcast_attention(codes, (10, 10), step_tokens_K=s_x, step_representatives_K=s_r, pool=2)
        return jnp.sum(jnp.sin(moved))

    assert "101,101" not in str(jax.make_jaxpr(jax.grad(loss))(codes))


def test_mistakes_are_named():
    codes, s_x, s_r = problem(6, (4, 6), "first")
    steps = {"step_tokens_K": s_x, "step_representatives_K": s_r}
    with pytest.raises(ValueError, match="24 tokens do not fill a grid of 5 x 5"):
        contract_broadcast_attention(jnp.float32(codes), (5, 5), **steps)
    with pytest.raises(ValueError, match="class_token='middle'"):
        contract_broadcast_attention(jnp.float32(codes), (4, 6), **steps, class_token="middle")
