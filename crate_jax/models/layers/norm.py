"""LayerNorm as a module, and its names in foreign checkpoints."""

import flax.linen as nn

from crate_jax.models.layout import partitioned
from crate_jax.operators.normalisation import layer_norm


class LayerNorm(nn.Module):
    """LayerNorm over a token's entries; parameters `scale` and `bias`, each of shape D."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, z_BxNxD, *, parameters_only=False):
        """The normalised tokens, or (scale, bias) for an operator that normalises them itself."""
        width = z_BxNxD.shape[-1]
        scale_D = self.param("scale", partitioned(nn.initializers.ones, None), (width,))
        bias_D = self.param("bias", partitioned(nn.initializers.zeros, None), (width,))
        if parameters_only:
            return scale_D, bias_D
        return layer_norm(z_BxNxD, scale_D, bias_D, epsilon=self.epsilon)


def official_norm(theirs, ours):
    """Names of a LayerNorm in a foreign checkpoint: (their name, our path, layout) triples."""
    names = (("weight", "scale"), ("bias", "bias"))
    return tuple((f"{theirs}.{name}", f"{ours}/{parameter}", "same") for name, parameter in names)


def prefixed(triples, theirs, ours):
    """The same names below another module: of the foreign checkpoint, and of ours."""
    return tuple((f"{theirs}{name}", f"{ours}{path}", layout) for name, path, layout in triples)
