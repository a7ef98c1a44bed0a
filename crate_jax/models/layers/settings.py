"""What distinguishes one white-box layer from another: the options of compression and sparsification."""

import dataclasses
from typing import Any


@dataclasses.dataclass(unsafe_hash=True, kw_only=True)
class LayerSettings:
    """Options of a white-box layer; a network of the family has each of them as an attribute.

    What each is, with its range and choices, is said where it is checked: `config_schema`, below `model.`. Defaults are
    those of the official CRATE-MAE.
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
    """Arithmetic of a layer's forward pass on one image, multiply-adds counted twice."""

    linear: float = 0.0  # products with parameters; the backward pass costs twice as much
    attention: float = 0.0  # products of tokens with tokens, or with a matrix that is not trained
    attention_training: float = 3.0  # forward and backward cost of `attention`, as a multiple of the forward pass
    recomputed: float = 0.0  # what remat="names" computes again in the backward pass
    repeated: float = 0.0  # what an attention kernel computes again there without remat

    def __add__(self, other):
        total = self.attention + other.attention
        weighted = self.attention * self.attention_training + other.attention * other.attention_training
        recomputed, repeated = self.recomputed + other.recomputed, self.repeated + other.repeated
        return Cost(self.linear + other.linear, total, weighted / total if total else 3.0, recomputed, repeated)
