"""The frame of every compression step: norm, subspaces, a branch from the codes, and how it moves the tokens.

    w  = LN(z) U                     codes: coordinates in the K subspaces
    z+ = z + f(w)                    "add", the official step; a decoder layer expands: z - f(w)

A family says what f is (`branch`). The other steps are "subtract", z - f(w) (Hu et al. 2024, arXiv 2411.17182), and
"convex", z + kappa (f(w) - z); the paper's own scale is a convex step of length kappa P / (N eps^2).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from crate_jax.models.layers.initializers import xavier, zeros
from crate_jax.models.layers.norm import LayerNorm, official_norm
from crate_jax.models.layers.settings import Cost, LayerSettings
from crate_jax.models.layers.stochastic_depth import drop_path
from crate_jax.models.layout import constrain, partitioned, token_spec
from crate_jax.operators.affine import broadcast_rows, product
from crate_jax.operators.normalisation import layer_norm
from crate_jax.operators.normalised import normalised_product
from crate_jax.operators.residuals import name_residual

OFFICIAL = (
    *official_norm("norm", "attention_norm"),
    ("fn.qkv.weight", "attention/subspaces", "matrix"),
    ("fn.to_out.0.weight", "attention/output_kernel", "matrix"),
    ("fn.to_out.0.bias", "attention/output_bias", "same"),
)
MEANINGS = {
    "attention/subspaces": "{space} = [{space}_1 .. {space}_K]: K={heads} bases of {size} columns{queries}",
    "attention/output_kernel": "to_out: learned in the place of {space}, which the paper has there",
    "attention/fixed_output_kernel": "a random output projection that is never trained",
    "attention/output_bias": "to_out's bias",
    "attention_norm": "LayerNorm before {compression}",
    "kappa": "step size of the compression step",
    "layer_scale": "factor of the compression branch, per channel",
}


@dataclasses.dataclass(frozen=True)
class Projection:
    """The map from heads back to tokens."""

    subspaces_DxKP: Any  # U
    matrix: Any  # of the map, KP x D; None for the identity
    bias_D: Any  # or None
    transposed: bool  # the map is U^T, and `matrix` U: a transpose outside would transpose its float32 gradient

    def __call__(self, moved_BxNxKP):
        """The tokens that the heads' results stand for."""
        if self.matrix is not None:
            moved_BxNxKP = product(moved_BxNxKP, self.matrix, self.transposed)
        return self.add_bias(name_residual(moved_BxNxKP, "compressed"))

    def add_bias(self, moved_BxNxD):
        """x + b."""
        return moved_BxNxD if self.bias_D is None else moved_BxNxD + broadcast_rows(self.bias_D, moved_BxNxD)


class Subspaces(nn.Module):
    """The parameters U and the output projection."""

    settings: LayerSettings
    num_heads: int  # K; a single head of full width has no learned projection (official code)
    kind: str  # of the output projection

    @nn.compact
    def __call__(self, width):
        """A `Projection`."""
        kind, square = self.kind, (width, width)
        subspaces_DxKP = self.param("subspaces", partitioned(xavier, "embed", "heads"), square)
        matrix = bias_D = None
        if kind in ("tied", "transposed"):
            matrix = subspaces_DxKP
        elif kind == "fixed":
            matrix = self.param("fixed_output_kernel", partitioned(xavier, "heads", "embed"), square)
            matrix = jax.lax.stop_gradient(matrix)
        elif kind == "learned" and self.num_heads > 1:
            matrix = self.param("output_kernel", partitioned(xavier, "heads", "embed"), square)
            if self.settings.output_bias:
                bias_D = self.param("output_bias", partitioned(zeros, None), (width,))
        return Projection(subspaces_DxKP, matrix, bias_D, kind == "tied")


@dataclasses.dataclass(frozen=True)
class Step:
    """What a compression step works on."""

    z_BxNxD: Any
    start_BxNxD: Any  # what is moved: z, or LN(z)
    codes_BxNxKP: Any  # w = LN(z) U, heads side by side
    projection: Projection  # back to tokens
    norm: Callable  # LN, a function of tokens


class Compression(nn.Module):
    """One compression step of a layer.

    A family has `branch(step)`, f(w) as B x N x D, and overrides `fused` where it has a kernel for the step.
    """

    settings: LayerSettings
    num_heads: int  # K
    sign: int = 1  # in the encoder; -1 in the decoder, which expands
    grid: tuple | None = None  # (rows, columns) of the patches if every one of them is there

    @nn.compact
    def __call__(self, z_BxNxD, keep_Bx1x1=None):
        """Moves the tokens z_BxNxD; `keep_Bx1x1` is stochastic depth's factor of each image."""
        settings, width = self.settings, z_BxNxD.shape[-1]
        scale_D, bias_D = LayerNorm(name="attention_norm")(z_BxNxD, parameters_only=True)
        norm = functools.partial(layer_norm, scale_D=scale_D, bias_D=bias_D, epsilon=settings.layer_norm_epsilon)
        projection = Subspaces(settings, self.num_heads, self.output_projection, name="attention")(width)
        z_BxNxD, codes_BxNxKP = normalised_product(
            z_BxNxD, scale_D, bias_D, projection.subspaces_DxKP, epsilon=settings.layer_norm_epsilon, residual=True,
            kernel=settings.product_kernel, spec=token_spec(z_BxNxD),
        )  # fmt: skip
        codes_BxNxKP = constrain(codes_BxNxKP, "images", None, "heads")
        self.sow("intermediates", "codes", codes_BxNxKP)
        start_BxNxD = z_BxNxD
        if settings.skip == "normed" or self.is_mutable_collection("intermediates"):
            normed_BxNxD = norm(z_BxNxD)
            self.sow("intermediates", "normed", normed_BxNxD)
            start_BxNxD = normed_BxNxD if settings.skip == "normed" else z_BxNxD
        step = Step(z_BxNxD, start_BxNxD, codes_BxNxKP, projection, norm)
        if keep_Bx1x1 is None and settings.layer_scale is None and self.adds:
            return constrain(self.fused(step, self.direction), "images", None, None)
        branch_BxNxD = constrain(self.branch(step), "images", None, None)
        if settings.layer_scale is not None:
            start = nn.initializers.constant(settings.layer_scale)
            branch_BxNxD *= broadcast_rows(self.param("layer_scale", partitioned(start, None), (width,)), branch_BxNxD)
        return step.start_BxNxD + drop_path(self.change(step, branch_BxNxD), keep_Bx1x1)

    def fused(self, step, factor):
        """start + factor f(w)."""
        return step.start_BxNxD + factor * self.branch(step)

    @property
    def output_projection(self):
        """Kind of the map from heads back to tokens."""
        return self.settings.output_projection

    @property
    def adds(self):
        """Whether the step is z + direction f(w), with no step size of its own."""
        return self.settings.compression_step != "convex" and self.settings.attention_scale == "official"

    @property
    def direction(self):
        """Sign of the branch."""
        return -self.sign if self.settings.compression_step == "subtract" else self.sign

    def change(self, step, branch_BxNxD):
        """What is added to the start."""
        if self.adds:
            return self.direction * branch_BxNxD
        length = self.sign * self.kappa()
        if self.settings.attention_scale == "paper":
            num_tokens, width = branch_BxNxD.shape[-2:]
            length *= (width // self.num_heads) / (num_tokens * self.settings.epsilon**2)
        change_BxNxD = branch_BxNxD - step.start_BxNxD
        return (length * change_BxNxD).astype(change_BxNxD.dtype)  # a learned length's gradient is summed in float32

    def kappa(self):
        """Step size: a number, or the layer's parameter."""
        if not self.settings.learned_kappa:
            return self.settings.kappa
        return self.param("kappa", partitioned(nn.initializers.constant(self.settings.kappa)), ())


def step_cost(settings, num_heads, width, tokens, attention=0.0, attention_training=3.0, repeating=()):
    """`Cost` of a step on one image: U, the output projection, and products of tokens with tokens.

    Args:
        settings, num_heads, width, tokens: of the layer.
        attention, attention_training: as in `Cost`.
        repeating: attention kernels whose backward pass computes the attention again.
    """
    kind, codes = settings.output_projection, 2 * tokens * width**2
    maps = kind != "identity" and (kind != "learned" or num_heads > 1)
    repeated = attention if settings.attention_kernel in repeating else 0.0
    twice = attention if repeated and settings.attention_kernel == "recompute" else 0.0  # see `operators.residuals`
    total = Cost(codes, attention, attention_training, recomputed=codes + attention + twice, repeated=repeated)
    if kind == "fixed":
        return total + Cost(0.0, codes, 2.0)  # no gradient of a matrix that is not trained
    return total + Cost(codes * maps)
