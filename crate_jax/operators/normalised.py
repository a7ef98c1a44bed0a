"""LayerNorm fused with the product or the ISTA step after it; dispatches on `kernel`, the result is the same.

"xla" leaves the fusing to the compiler. "pallas" is one kernel forward and one backward for each
(`kernels.norm_product_tpu`, `kernels.ista_tpu`): the normalised tokens are not written to HBM; devices other than TPUs
interpret it, slowly. "auto" is "xla": the kernels have yet to be timed on a TPU.
"""

from crate_jax.operators.affine import product
from crate_jax.operators.ista import ista
from crate_jax.operators.normalisation import layer_norm


def normalised_product(z_BxNxD, scale_D, bias_D, weight_DxE, *, epsilon, residual=False, kernel="auto", spec=None):
    """LN(z) W, or (z, LN(z) W).

    Args:
        z_BxNxD: tokens, float32 or bfloat16.
        scale_D, bias_D: of the norm.
        weight_DxE: W, float32; rounded to the dtype of z for the product.
        epsilon: of the norm.
        residual: True: z is returned before the product. Use it in place of the argument for the residual connection:
            the same kernel then adds its cotangent.
        kernel: "xla", "pallas" or "auto".
        spec: how z is sharded over the current mesh, a `PartitionSpec` whose axes divide B; only "pallas" needs it.

    Returns:
        In the dtype of z.

    Raises:
        UserError: "pallas", and W and the tokens of one image do not fit into VMEM.
    """
    if kernel != "pallas":
        product_BxNxE = product(layer_norm(z_BxNxD, scale_D, bias_D, epsilon=epsilon), weight_DxE)
        return (z_BxNxD, product_BxNxE) if residual else product_BxNxE
    from crate_jax.operators.kernels.norm_product_tpu import norm_product_tpu

    return norm_product_tpu(z_BxNxD, scale_D, bias_D, weight_DxE, epsilon, residual, spec)


def normalised_ista(
    z_BxNxD, scale_D, bias_D, dictionary_DxD, *, epsilon, step_size, sparsity, kernel="auto", spec=None
):
    """ISTA(LN(z) | D).

    Args:
        z_BxNxD: tokens, float32 or bfloat16.
        scale_D, bias_D: of the norm.
        dictionary_DxD: D, atoms in columns, float32; rounded to the dtype of z for the products.
        epsilon: of the norm.
        step_size, sparsity: eta and lambda.
        kernel, spec: as in `normalised_product`.

    Returns:
        The codes, shape and dtype of z.

    Raises:
        UserError: as `normalised_product`.
    """
    if kernel != "pallas":
        normed_BxNxD = layer_norm(z_BxNxD, scale_D, bias_D, epsilon=epsilon)
        return ista(normed_BxNxD, dictionary_DxD, step_size=step_size, sparsity=sparsity)
    from crate_jax.operators.kernels.ista_tpu import norm_ista_tpu

    return norm_ista_tpu(z_BxNxD, scale_D, bias_D, dictionary_DxD, epsilon, step_size, sparsity, spec)
