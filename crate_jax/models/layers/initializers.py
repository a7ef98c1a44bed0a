"""Initial values of the layers' parameters, as in the official code."""

import flax.linen as nn

xavier = nn.initializers.xavier_uniform()
kaiming = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
zeros = nn.initializers.zeros
ones = nn.initializers.ones
