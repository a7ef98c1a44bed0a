"""The layers: an encoder layer is a compression step and a sparsification step, a decoder layer reverses them.

    encoder    z' = z + MSSA(LN(z));    z+ = ISTA(LN(z'))          (no residual around ISTA)
    decoder    y' = E LN(y);            y+ = y' - MSSA(LN(y'))

Pai et al. 2024 (arXiv 2404.02446), section 3, as the official code has it; the fields are the places where paper, book
and code differ. Each layer sows what the white box shows (collection `intermediates`): its input, the normalised
tokens, the codes U^T LN(z), and the tokens after each half.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.errors import UserError
from crate_jax.models.layout import constrain, spec_of, split_along, ways
from crate_jax.operators.affine import affine, product, spread
from crate_jax.operators.attention_step import attention_step
from crate_jax.operators.ista import ista
from crate_jax.operators.normalisation import layer_norm
from crate_jax.operators.normalised import normalised_ista, normalised_product
from crate_jax.operators.subspace_attention import attend, split_heads

xavier = nn.initializers.xavier_uniform()
kaiming = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
zeros = nn.initializers.zeros
ones = nn.initializers.ones


class LayerNorm(nn.Module):
    """LayerNorm over a token's entries; parameters `scale` and `bias`."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, z_BxNxD, *, apply=True):
        """The normalised tokens; or (scale, bias) for a kernel that normalises them."""
        width = z_BxNxD.shape[-1]
        scale_D = self.param("scale", split_along(ones, None), (width,))
        bias_D = self.param("bias", split_along(zeros, None), (width,))
        if not apply:
            return scale_D, bias_D
        return layer_norm(z_BxNxD, scale_D, bias_D, epsilon=self.epsilon)


def fused(module, norm, z_BxNxD):
    """How a kernel takes a norm together with what follows it; None where the tokens between are to be seen.

    Args:
        module: its `product_kernel` is asked.
        norm: a `LayerNorm`.
        z_BxNxD: its tokens.

    Returns:
        ((scale, bias), keyword arguments of `operators.normalised`), or None.

    Raises:
        UserError: the mesh splits rows that the kernel takes whole.
    """
    if module.product_kernel != "pallas" or module.is_initializing() or module.is_mutable_collection("intermediates"):
        return None
    if ways("heads") * ways("atoms") > 1:
        raise UserError(
            "model.product_kernel='pallas' takes whole rows, which mesh.tensor splits; choose 'xla', or mesh.tensor=1"
        )
    spec = spec_of((z_BxNxD.shape[0], 1, 1), "images", None, None)
    return norm(z_BxNxD, apply=False), {"epsilon": norm.epsilon, "kernel": "pallas", "spec": spec}


def kept(branch_BxNxD, keep_Bx1x1):
    """A residual's branch under stochastic depth: times 0 or 1 / (1 - rate) for each image; None leaves it alone."""
    return branch_BxNxD if keep_Bx1x1 is None else branch_BxNxD * keep_Bx1x1.astype(branch_BxNxD.dtype)


def compression_fields(model, num_heads, sign=1):
    """The fields of a network's compression steps (`CompressionStep`)."""
    names = ("output_projection", "skip", "attention_scale", "kappa", "epsilon", "attention_kernel", "product_kernel")
    return {"num_heads": num_heads, "sign": sign, **{name: getattr(model, name) for name in names}}


class SubspaceAttention(nn.Module):
    """MSSA(LN(z)): subspaces U_1 .. U_K, and the official code's output projection beside them.

    Attributes:
        num_heads: K.
        output_projection: "learned" (a matrix with bias; a single head of full width has none) or "tied" (U itself).
        logit_scale: None for P ** -0.5.
        kernel: how softmax(scale w w^T) w is computed (`operators.subspace_attention.attend`).
    """

    num_heads: int
    output_projection: str = "learned"
    logit_scale: float | None = None
    kernel: str = "auto"

    @nn.compact
    def __call__(self, normed_BxNxD, together=None, factor=None):
        """MSSA of normalised tokens; with `together` (from `fused`) of z itself, and then z + factor MSSA(LN(z)), or
        (z, MSSA(LN(z))) where no factor is given.
        """
        width = normed_BxNxD.shape[-1]
        subspaces_DxKP = self.param("subspaces", split_along(xavier, "embed", "heads"), (width, width))
        if self.output_projection == "tied":
            weight_KPxD, bias_D = subspaces_DxKP.T, None
        elif self.num_heads == 1:
            weight_KPxD, bias_D = None, None
        else:
            weight_KPxD = self.param("output_kernel", split_along(xavier, "heads", "embed"), (width, width))
            bias_D = self.param("output_bias", split_along(zeros, None), (width,))
        if together is None:
            return self.moved(product(normed_BxNxD, subspaces_DxKP), weight_KPxD, bias_D)
        norm, how = together
        z_BxNxD, codes_BxNxKP = normalised_product(normed_BxNxD, *norm, subspaces_DxKP, residual=True, **how)
        if factor is not None and self.kernel == "pallas" and weight_KPxD is not None:
            bias_D = jnp.zeros(width) if bias_D is None else bias_D
            step = {"num_heads": self.num_heads, "scale": self.scale(width), "factor": factor}
            return attention_step(z_BxNxD, codes_BxNxKP, weight_KPxD, bias_D, kernel="pallas", spec=how["spec"], **step)
        moved_BxNxD = self.moved(codes_BxNxKP, weight_KPxD, bias_D)
        return (z_BxNxD, moved_BxNxD) if factor is None else z_BxNxD + factor * moved_BxNxD

    def scale(self, width):
        """Of the logits."""
        return self.logit_scale or (width // self.num_heads) ** -0.5

    def moved(self, codes_BxNxKP, weight_KPxD, bias_D):
        """What the codes' attention to each other adds to the tokens."""
        codes_BxNxKP = constrain(codes_BxNxKP, "images", None, "heads")
        self.sow("intermediates", "codes", codes_BxNxKP)
        # under a mesh with a tensor axis a device has whole heads or all of them
        spec = spec_of((codes_BxNxKP.shape[0], 1, self.num_heads), "images", None, "heads")
        moved_BxNxD = attend(
            codes_BxNxKP,
            num_heads=self.num_heads,
            scale=self.scale(codes_BxNxKP.shape[-1]),
            kernel=self.kernel,
            spec=spec,
            weight_KPxD=weight_KPxD,
        )
        return moved_BxNxD if bias_D is None else moved_BxNxD + spread(bias_D, moved_BxNxD)


class CompressionStep(nn.Module):
    """z + MSSA(LN(z)), towards the subspaces; with sign -1 away from them, as the decoder goes.

    Attributes:
        num_heads, output_projection: of the attention.
        sign: 1 compresses, -1 expands.
        skip: what the step adds to: "input" (z, the official code) or "normed" (LN(z), the paper's diagrams).
        attention_scale: "official" (logits times P^-1/2, step 1) or "paper" (logits as they are, step
            kappa P / (N eps^2), and (1 - that) z).
        kappa, epsilon: of the paper's step.
        attention_kernel: of the attention.
        product_kernel: how norm and product are computed (`operators.normalised`).
    """

    num_heads: int
    sign: int = 1
    output_projection: str = "learned"
    skip: str = "input"
    attention_scale: str = "official"
    kappa: float = 1.0
    epsilon: float = 0.5
    attention_kernel: str = "auto"
    product_kernel: str = "auto"

    @nn.compact
    def __call__(self, z_BxNxD, keep_Bx1x1=None):
        num_tokens, width = z_BxNxD.shape[-2:]
        norm = LayerNorm(name="attention_norm")
        paper = self.attention_scale == "paper"
        logit_scale = 1.0 if paper else None
        attention = SubspaceAttention(
            self.num_heads, self.output_projection, logit_scale, self.attention_kernel, name="attention"
        )
        together = fused(self, norm, z_BxNxD) if self.skip == "input" else None
        if together is None:
            normed_BxNxD = norm(z_BxNxD)
            self.sow("intermediates", "normed", normed_BxNxD)
            start_BxNxD, moved_BxNxD = z_BxNxD if self.skip == "input" else normed_BxNxD, attention(normed_BxNxD)
        elif not paper and keep_Bx1x1 is None:
            return constrain(attention(z_BxNxD, together, self.sign), "images", None, None)
        else:
            start_BxNxD, moved_BxNxD = attention(z_BxNxD, together)
        moved_BxNxD = constrain(moved_BxNxD, "images", None, None)
        if not paper:
            return start_BxNxD + kept(self.sign * moved_BxNxD, keep_Bx1x1)
        step = self.sign * self.kappa * (width // self.num_heads) / (num_tokens * self.epsilon**2)
        return start_BxNxD + kept(step * (moved_BxNxD - start_BxNxD), keep_Bx1x1)


class SparsificationStep(nn.Module):
    """ISTA(LN(z) | D), with no residual around it.

    Attributes:
        eta: step size.
        lambda_: sparsity weight.
        product_kernel: how norm and ISTA are computed (`operators.normalised`).
    """

    eta: float = 0.1
    lambda_: float = 0.5
    product_kernel: str = "auto"

    @nn.compact
    def __call__(self, z_BxNxD):
        width, norm = z_BxNxD.shape[-1], LayerNorm(name="ista_norm")
        dictionary_DxD = self.param("dictionary", split_along(kaiming, "embed", "atoms"), (width, width))
        step = {"step_size": self.eta, "sparsity": self.lambda_}
        together = fused(self, norm, z_BxNxD)
        if together is not None:
            return normalised_ista(z_BxNxD, *together[0], dictionary_DxD, **together[1], **step)
        return ista(norm(z_BxNxD), dictionary_DxD, **step)


class EncoderLayer(nn.Module):
    """One step of the sparse rate reduction: compression, then sparsification.

    Attributes:
        compression: the fields of `CompressionStep`.
        eta, lambda_: of ISTA.
    """

    compression: Any
    eta: float = 0.1
    lambda_: float = 0.5

    @nn.compact
    def __call__(self, z_BxNxD, keep_1xBx1x1=None):
        self.sow("intermediates", "input", z_BxNxD)
        keep_Bx1x1 = None if keep_1xBx1x1 is None else keep_1xBx1x1[0]
        compress = CompressionStep(**self.compression, name="compression")
        compressed_BxNxD = compress(z_BxNxD, keep_Bx1x1)
        self.sow("intermediates", "compressed", compressed_BxNxD)
        kernel = self.compression.get("product_kernel", "auto")
        sparsify = SparsificationStep(self.eta, self.lambda_, kernel, name="sparsification")
        sparse_BxNxD = constrain(sparsify(compressed_BxNxD), "images", None, None)
        self.sow("intermediates", "output", sparse_BxNxD)
        return sparse_BxNxD


class DecoderLayer(nn.Module):
    """The reversal of an encoder layer: a linear map E for ISTA, then expansion for compression.

    Attributes:
        compression: the fields of `CompressionStep`, with sign -1.
    """

    compression: Any

    @property
    def product_kernel(self):
        """Of both norms."""
        return self.compression.get("product_kernel", "auto")

    @nn.compact
    def __call__(self, y_BxNxD):
        width, norm = y_BxNxD.shape[-1], LayerNorm(name="linear_norm")
        self.sow("intermediates", "input", y_BxNxD)
        kernel_DxD = self.param("linear_kernel", split_along(kaiming, "embed", "atoms"), (width, width))
        together = fused(self, norm, y_BxNxD)
        if together is None:
            mapped_BxNxD = product(norm(y_BxNxD), kernel_DxD)
        else:
            mapped_BxNxD = normalised_product(y_BxNxD, *together[0], kernel_DxD, **together[1])
        mapped_BxNxD = constrain(mapped_BxNxD, "images", None, None)
        self.sow("intermediates", "mapped", mapped_BxNxD)
        expanded_BxNxD = CompressionStep(**self.compression, name="expansion")(mapped_BxNxD)
        self.sow("intermediates", "output", expanded_BxNxD)
        return expanded_BxNxD


class ViTLayer(nn.Module):
    """A transformer layer as in ViT and MAE: attention and a GELU MLP of four times the width, each with a residual.

    Attributes:
        num_heads: K.
    """

    num_heads: int

    @nn.compact
    def __call__(self, z_BxNxD, keep_2xBx1x1=(None, None)):
        width = z_BxNxD.shape[-1]
        self.sow("intermediates", "input", z_BxNxD)

        def dense(name, z, size, axes):
            kernel = self.param(f"{name}_kernel", split_along(xavier, *axes), (z.shape[-1], size))
            bias = self.param(f"{name}_bias", split_along(zeros, None), (size,))
            return affine(z, kernel, bias)

        normed_BxNxD = LayerNorm(1e-6, name="attention_norm")(z_BxNxD)
        self.sow("intermediates", "normed", normed_BxNxD)
        fused_BxNx3D = constrain(dense("qkv", normed_BxNxD, 3 * width, ("embed", "heads")), "images", None, "heads")
        query, key, value = (split_heads(x, self.num_heads) for x in jnp.split(fused_BxNx3D, 3, -1))
        self.sow("intermediates", "query", query)
        self.sow("intermediates", "key", key)
        moved_BxNxD = jax.nn.dot_product_attention(query, key, value).reshape(z_BxNxD.shape)
        moved_BxNxD = constrain(dense("output", moved_BxNxD, width, ("heads", "embed")), "images", None, None)
        z_BxNxD = z_BxNxD + kept(moved_BxNxD, keep_2xBx1x1[0])
        self.sow("intermediates", "compressed", z_BxNxD)
        hidden = dense("up", LayerNorm(1e-6, name="mlp_norm")(z_BxNxD), 4 * width, ("embed", "hidden"))
        hidden = constrain(jax.nn.gelu(hidden, approximate=False), "images", None, "hidden")
        hidden = constrain(dense("down", hidden, width, ("hidden", "embed")), "images", None, None)
        z_BxNxD = z_BxNxD + kept(hidden, keep_2xBx1x1[1])
        self.sow("intermediates", "output", z_BxNxD)
        return z_BxNxD
