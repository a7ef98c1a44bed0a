"""What distinguishes one white-box layer from another: the options of compression and sparsification."""

import dataclasses
from typing import Any


@dataclasses.dataclass(unsafe_hash=True, kw_only=True)
class LayerSettings:
    """Options of a white-box layer; a network of the family has each of them as an attribute.

    Attributes:
        compression: "mssa" (subspace attention), "tssa" (token statistics), "cbsa" (contract and broadcast),
            "gradient" (the exact gradient of the coding rate), "neumann" (two terms of its series).
        output_projection: of the attention: "learned" (a matrix of its own), "tied" (U^T, what the paper writes),
            "transposed" (U), "fixed" (a random matrix that is never trained) or "identity".
        output_bias: a learned output projection has a bias.
        compression_step: "add" (z + f(LN(z)), official), "subtract" (z - f(LN(z))) or "convex"
            (z + kappa (f(LN(z)) - z)).
        skip: what the step starts from: "input" (z, official) or "normed" (LN(z), the paper's diagrams).
        attention_scale: "official" (logits times P^-1/2) or "paper" (logits as they are, a convex step of length
            kappa P / (N eps^2)).
        kappa: step size of a convex, paper or gradient step.
        learned_kappa: kappa is where a parameter of each layer starts.
        epsilon: distortion of the coding rate, for the paper and gradient steps.
        layer_scale: initial value of a learned factor per channel of the compression branch; None: no factor.
        pool_size: CBSA pools tokens into pool_size x pool_size representatives.
        pool_class_token: CBSA's pooling reads the patches ("first": the class token comes first) or, as the official
            code, the first N - 1 tokens ("last").
        sparsification: "ista", "overcomplete" (ISTA on a dictionary of expansion x D atoms), "mlp" (the GELU MLP of
            ToST) or "none" (attention only).
        expansion: atoms (or hidden units) per width, for "overcomplete" and "mlp".
        readout: of "overcomplete": "free" (a matrix of its own) or "tied" (the dictionary).
        sparsification_steps: ISTA steps of "overcomplete".
        sparsification_residual: z + step(LN(z)) in place of step(LN(z)).
        eta, lambda_: step size and sparsity weight of ISTA.
        decoder_map: how a decoder layer reverses sparsification: "linear" (a D x D matrix, official) or
            "overcomplete" (the encoder's step, mirrored).
        layer_norm_epsilon: of the layers' norms.
        attention_kernel, product_kernel: how attention, and norms with the products after them, are computed; the
            result is the same.
    """

    compression: str = "mssa"
    output_projection: str = "learned"
    output_bias: bool = True
    compression_step: str = "add"
    skip: str = "input"
    attention_scale: str = "official"
    kappa: float = 1.0
    learned_kappa: bool = False
    epsilon: float = 0.5
    layer_scale: float | None = None
    pool_size: int = 8
    pool_class_token: str = "first"
    sparsification: str = "ista"
    expansion: int = 4
    readout: str = "free"
    sparsification_steps: int = 2
    sparsification_residual: bool = False
    eta: float = 0.1
    lambda_: float = 0.5
    decoder_map: str = "linear"
    layer_norm_epsilon: float = 1e-5
    attention_kernel: str = "auto"
    product_kernel: str = "auto"


def settings_of(model: Any) -> LayerSettings:
    """The layer settings that a network carries as attributes."""
    return LayerSettings(**{field.name: getattr(model, field.name) for field in dataclasses.fields(LayerSettings)})


@dataclasses.dataclass(frozen=True)
class Cost:
    """Arithmetic of a layer's forward pass on one image, multiply-adds counted twice.

    Attributes:
        linear: products with parameters; the backward pass costs twice as much.
        attention: products of tokens with tokens.
        attention_training: forward and backward cost of `attention`, as a multiple of the forward pass.
        recomputed: part of `linear` that remat="names" computes again in the backward pass.
    """

    linear: float = 0.0
    attention: float = 0.0
    attention_training: float = 3.0
    recomputed: float = 0.0

    def __add__(self, other):
        total = self.attention + other.attention
        weighted = self.attention * self.attention_training + other.attention * other.attention_training
        return Cost(
            self.linear + other.linear, total, weighted / total if total else 3.0, self.recomputed + other.recomputed
        )
