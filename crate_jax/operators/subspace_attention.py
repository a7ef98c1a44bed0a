"""Compression: multi-head subspace self-attention (MSSA), where one matrix is query, key and value.

    SSA(Z | U_k) = (U_k^T Z) softmax(scale (U_k^T Z)^T (U_k^T Z))
    MSSA(Z | U)  = [U_1 .. U_K] [SSA(Z | U_1); ..; SSA(Z | U_K)]        (times P/(N eps^2) in the paper)

Pai et al. 2024 (arXiv 2404.02446), section 2. With rows as tokens and w = Z U_k: SSA = softmax(scale w w^T) w.

The backward pass is written by hand: S = w w^T is symmetric and w enters three times, so three batched products
suffice where autodiff takes four. With A the softmax, o = A w and g the cotangent of o,

    dS = A * (g w^T - rowsum(g * o)),        dw = A^T g + scale (dS + dS^T) w.
"""

import functools

import jax
import jax.numpy as jnp

from crate_jax.errors import UserError
from crate_jax.operators.affine import product
from crate_jax.operators.residuals import name_residual


def split_heads(codes_BxNxD, num_heads):
    """B x N x D to B x N x K x P: the k-th run of P = D / K entries is the k-th subspace."""
    return codes_BxNxD.reshape(*codes_BxNxD.shape[:-1], num_heads, -1)


def subspace_attention_weights(codes_BxNxKxP, *, scale):
    """softmax(scale w_k w_k^T): the weight of every token in each other, per subspace.

    Args:
        codes_BxNxKxP: w, the tokens' coordinates U_k^T z; float32 or bfloat16.
        scale: of the logits; the official code's is P ** -0.5, the paper's 1.

    Returns:
        attention_BxKxNxN, float32, rows (queries) sum to one.
    """
    scores_BxKxNxN = jnp.einsum("bnkp,bmkp->bknm", codes_BxNxKxP, codes_BxNxKxP, preferred_element_type=jnp.float32)
    return jax.nn.softmax(scores_BxKxNxN * scale, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def subspace_self_attention(codes_BxNxKxP, scale):
    """SSA in every subspace at once: softmax(scale w_k w_k^T) w_k, in shape and dtype of the codes; float32 scores."""
    return _forward(codes_BxNxKxP, scale)[0]


def _forward(codes_BxNxKxP, scale):
    codes_BxKxNxP = jnp.swapaxes(codes_BxNxKxP, 1, 2)
    scores_BxKxNxN = jnp.einsum("bknp,bkmp->bknm", codes_BxKxNxP, codes_BxKxNxP, preferred_element_type=jnp.float32)
    attention_BxKxNxN = jax.nn.softmax(scores_BxKxNxN * scale, -1).astype(codes_BxNxKxP.dtype)
    moved_BxKxNxP = attention_BxKxNxN @ codes_BxKxNxP
    return jnp.swapaxes(moved_BxKxNxP, 1, 2), (codes_BxKxNxP, attention_BxKxNxN, moved_BxKxNxP)


def _backward(scale, residuals, cotangent_BxNxKxP):
    codes_BxKxNxP, attention_BxKxNxN, moved_BxKxNxP = residuals
    cotangent_BxKxNxP = jnp.swapaxes(cotangent_BxNxKxP, 1, 2)
    f32 = jnp.float32
    inner_BxKxNx1 = jnp.sum(cotangent_BxKxNxP.astype(f32) * moved_BxKxNxP.astype(f32), -1, keepdims=True)
    product_BxKxNxN = jnp.einsum("bknp,bkmp->bknm", cotangent_BxKxNxP, codes_BxKxNxP, preferred_element_type=f32)
    slope_BxKxNxN = attention_BxKxNxN * (product_BxKxNxN - inner_BxKxNx1) * scale
    symmetric_BxKxNxN = (slope_BxKxNxN + jnp.swapaxes(slope_BxKxNxN, -1, -2)).astype(codes_BxKxNxP.dtype)
    by_value_BxKxNxP = jnp.einsum("bkmn,bkmp->bknp", attention_BxKxNxN, cotangent_BxKxNxP)
    return (jnp.swapaxes(by_value_BxKxNxP + symmetric_BxKxNxN @ codes_BxKxNxP, 1, 2),)


subspace_self_attention.defvjp(_forward, _backward)


@functools.partial(jax.checkpoint, static_argnums=1)
def recomputed_self_attention(codes_BxNxKxP, scale):
    """`subspace_self_attention` by autodiff with recomputed scores; the codes are the only residual.

    Two more products of N x N x P per head, but no N x N array among the residuals, and none is transposed: less HBM
    traffic on a TPU. On a CPU the products decide.
    """
    attention_BxKxNxN = subspace_attention_weights(codes_BxNxKxP, scale=scale).astype(codes_BxNxKxP.dtype)
    return jnp.einsum("bknm,bmkp->bnkp", attention_BxKxNxN, codes_BxNxKxP)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def image_by_image_self_attention(codes_BxNxKxP, scale):
    """`subspace_self_attention` of one image after the other; the codes are the only residual.

    The scores of one image stay in a CPU core's cache. At the size of CRATE-MAE base that outweighs the recomputed
    forward pass. For one device only: images cannot be sharded.
    """
    return jax.lax.map(lambda codes_NxKxP: _forward(codes_NxKxP[None], scale)[0][0], codes_BxNxKxP)


def _forward_by_image(codes_BxNxKxP, scale):
    return image_by_image_self_attention(codes_BxNxKxP, scale), codes_BxNxKxP


def _backward_by_image(scale, codes_BxNxKxP, cotangent_BxNxKxP):
    def one(both):
        codes_1xNxKxP, cotangent_1xNxKxP = (x[None] for x in both)
        _, residuals = _forward(codes_1xNxKxP, scale)
        return _backward(scale, residuals, cotangent_1xNxKxP)[0][0]

    return (jax.lax.map(one, (codes_BxNxKxP, cotangent_BxNxKxP)),)


image_by_image_self_attention.defvjp(_forward_by_image, _backward_by_image)


def cudnn_self_attention(codes_BxNxKxP, scale):
    """`subspace_self_attention` by `cudnn_attention`: w is query, key and value."""
    return cudnn_attention(codes_BxNxKxP, codes_BxNxKxP, codes_BxNxKxP, scale)


def cudnn_attention(query_BxNxKxP, key_BxNxKxP, value_BxNxKxP, scale):
    """softmax(scale q k^T) v by cuDNN's flash attention on an NVIDIA GPU; bfloat16, scores never leave the chip.

    An odd number of tokens, which jax's gradient refuses, gets one more that none attends to.

    Raises:
        UserError: float32, a head size that cuDNN lacks, or no GPU that has it (`cudnn_refuses`).
    """
    if refusal := cudnn_refuses(query_BxNxKxP.dtype, query_BxNxKxP.shape[-1], jax.devices()[0]):
        raise UserError(f"model.attention_kernel='cudnn': {refusal}; choose 'xla' or leave it out.")
    images, tokens = query_BxNxKxP.shape[:2]
    arrays, lengths = (query_BxNxKxP, key_BxNxKxP, value_BxNxKxP), {}
    if tokens % 2:
        arrays = [jnp.pad(array, ((0, 0), (0, 1), (0, 0), (0, 0))) for array in arrays]
        lengths = dict.fromkeys(("query_seq_lengths", "key_value_seq_lengths"), jnp.full(images, tokens, jnp.int32))
    return jax.nn.dot_product_attention(*arrays, scale=scale, implementation="cudnn", **lengths)[:, :tokens]


def cudnn_refuses(dtype, head_size, device):
    """Why cuDNN's flash attention cannot be had, one clause, or None.

    Args:
        dtype: of the computation.
        head_size: P.
        device: a `jax.Device`.
    """
    if "cuda" not in getattr(device.client, "platform_version", ""):
        return f"it is for NVIDIA GPUs, and the device is {device.device_kind}"
    if float(device.compute_capability) < 8.0:
        return f"it needs an Ampere GPU (compute capability 8.0) or a later one, and {device.device_kind} is older"
    if dtype != jnp.bfloat16:
        return f"it needs model.dtype=bfloat16, and this is {jnp.dtype(dtype).name}"
    if head_size % 8 or head_size > 128:
        return f"it takes heads of a multiple of 8 dimensions, up to 128, and these have {head_size}"
    return None


TOKENS_WORTH_IT = 96  # for cuDNN: with 101 it takes half the time of plain XLA, with 50 more (benchmarks/README.md)
_SCORES_WORTH_IT = 2**20  # bytes of scores per image; with fewer, all images at once are faster (benchmarks/README.md)


def attend(codes_BxNxKP, *, num_heads, scale, kernel="auto", spec=None, weight_KPxD=None, transposed=False):
    """SSA in every subspace at once; dispatches on `kernel`, the result is the same.

    Args:
        codes_BxNxKP: w, the tokens' coordinates U_k^T z, heads side by side; float32 or bfloat16.
        num_heads: K.
        scale: of the logits.
        kernel: "xla" (`subspace_self_attention`), "recompute" (`recomputed_self_attention`), "pallas"
            (`kernels.subspace_attention_tpu`: scores stay in VMEM; other devices interpret it, slowly),
            "image_by_image" (`image_by_image_self_attention` where the scores of an image are large; one device),
            "cudnn" (`cudnn_self_attention` where an image has 96 tokens or more) or "auto", which is "xla".
        spec: how the codes are sharded over the current mesh, a `PartitionSpec` whose axes divide B and K; only
            "pallas" needs it.
        weight_KPxD: the output map, float32 (rounded to the dtype of the codes for the product); "pallas" then saves
            the codes alone for the backward pass.
        transposed: the output map is the transpose of the given D x KP: [U_1 .. U_K] itself for a tied output.

    Returns:
        B x N x KP, or B x N x D, in the dtype of the codes; the residual "compressed" (`residuals`).

    Raises:
        UserError: "pallas", and the scores of one head do not fit into VMEM.
    """
    if kernel != "pallas":
        tokens, plain = codes_BxNxKP.shape[1], subspace_self_attention
        if kernel == "recompute":
            plain = recomputed_self_attention
        elif kernel == "cudnn" and tokens >= TOKENS_WORTH_IT:
            plain = cudnn_self_attention
        elif kernel == "image_by_image" and 4 * num_heads * tokens**2 >= _SCORES_WORTH_IT:
            plain = image_by_image_self_attention
        moved_BxNxKxP = plain(split_heads(codes_BxNxKP, num_heads), scale)
        moved = moved_BxNxKxP.reshape(codes_BxNxKP.shape)
        return name_residual(moved if weight_KPxD is None else product(moved, weight_KPxD, transposed), "compressed")
    from crate_jax.operators.kernels import subspace_attention_tpu as kernels

    head_size = codes_BxNxKP.shape[-1] // num_heads
    if weight_KPxD is None:
        moved = kernels.subspace_self_attention_tpu(codes_BxNxKP, head_size, scale, spec)
    else:
        moved = kernels.projected_self_attention_tpu(codes_BxNxKP, weight_KPxD, head_size, scale, spec, transposed)
    return name_residual(moved, "compressed")


def mssa(z_BxNxD, subspaces_DxKP, *, num_heads, scale):
    """[U_1 .. U_K] [SSA(Z | U_1); ..; SSA(Z | U_K)]: the denoised tokens, by the paper's tied projection.

    To first order in the Neumann expansion, with a softmax for the similarities, this is the descent direction of
    R^c(Z | U) up to the factor P/(N eps^2), which the caller's step size holds.

    Args:
        z_BxNxD: tokens; the result has their shape and dtype.
        subspaces_DxKP: [U_1 .. U_K], bases in columns, K P columns.
        num_heads, scale: as of `attend`.
    """
    codes_BxNxKP = product(z_BxNxD, subspaces_DxKP)
    return attend(codes_BxNxKP, num_heads=num_heads, scale=scale, weight_KPxD=subspaces_DxKP, transposed=True)
