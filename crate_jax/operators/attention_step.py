"""A step of MSSA from the tokens' codes: attention, output map, and the tokens that the result is added to.

    y = x + f (SSA(w) W + b)

"xla" computes one after the other (`subspace_attention.attend`); "pallas" is one kernel forward and one backward
(`kernels.attention_step_tpu`), whose residuals are the codes alone.
"""

from crate_jax.operators.affine import broadcast_rows
from crate_jax.operators.residuals import name_residual
from crate_jax.operators.subspace_attention import attend


def attention_step(
    start_BxNxD,
    codes_BxNxKP,
    weight_KPxD,
    bias_D,
    *,
    num_heads,
    scale,
    factor,
    kernel="auto",
    spec=None,
    transposed=False,
):
    """x + f (softmax(scale w_k w_k^T) w_k in every subspace, times W, + b).

    Args:
        start_BxNxD: x, float32 or bfloat16.
        codes_BxNxKP: w, the tokens' coordinates U_k^T z, in the dtype of x.
        weight_KPxD, bias_D: W and b, float32; rounded to the dtype of x.
        num_heads: K.
        scale: of the logits.
        factor: f.
        kernel: "xla", "pallas" or "auto", which is "xla".
        spec: how tokens are sharded over the current mesh, a `PartitionSpec` that may shard B only; only
            "pallas" needs it.
        transposed: W is the transpose of what is given.

    Returns:
        Shape and dtype of x.

    Raises:
        UserError: "pallas", and W and the scores of one head do not fit into VMEM.
    """
    dtype = start_BxNxD.dtype
    if kernel != "pallas":
        moved_BxNxD = attend(
            codes_BxNxKP, num_heads=num_heads, scale=scale, weight_KPxD=weight_KPxD, transposed=transposed
        )
        return start_BxNxD + factor * (moved_BxNxD + broadcast_rows(bias_D, moved_BxNxD))
    from crate_jax.operators.kernels.attention_step_tpu import attention_step_tpu, vmem_bytes
    from crate_jax.operators.kernels.tpu_call import check_room

    if transposed:
        weight_KPxD = weight_KPxD.T
    tokens, width = codes_BxNxKP.shape[-2:]
    needed = vmem_bytes(tokens, width, weight_KPxD.shape[1], num_heads, dtype.itemsize)
    check_room(
        needed,
        keeps="model.attention_kernel='pallas' with model.product_kernel='pallas' keeps a head's scores and a layer's "
        "matrix",
        what=f"{tokens} tokens of {width}",
        instead="'xla' for one of them, or larger patches",
    )
    head_size = width // num_heads
    out_BxNxD = attention_step_tpu(start_BxNxD, codes_BxNxKP, weight_KPxD, bias_D, head_size, scale, factor, spec)
    return name_residual(out_BxNxD, "compressed")
