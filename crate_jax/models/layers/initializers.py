"""Initial values of parameters, as in the official code, and the two parameters of a map z W + b."""

import flax.linen as nn

from crate_jax.models.layout import partitioned

xavier = nn.initializers.xavier_uniform()
kaiming = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
zeros = nn.initializers.zeros


def linear(module, name, shape, axes, *, kernel=xavier, bias=zeros):
    """Parameters `{name}_kernel`, D x E, whose axes have these logical names, and `{name}_bias` of a module."""
    weight_DxE = module.param(f"{name}_kernel", partitioned(kernel, *axes), shape)
    return weight_DxE, module.param(f"{name}_bias", partitioned(bias, None), shape[1:])
