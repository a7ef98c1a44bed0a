"""White-box layers: an encoder layer compresses and sparsifies, a decoder layer reverses both.

    encoder    z' = z + f(LN(z));      z+ = ISTA(LN(z'))          (no residual around ISTA in CRATE)
    decoder    y' = E LN(y);           y+ = y' - f(LN(y'))

Any compression of `COMPRESSIONS` goes with any sparsification of `SPARSIFICATIONS`. A layer sows, in the collection
`intermediates`, its input, the normalised tokens, the codes U^T LN(z), the tokens after each half and the sparse codes.
"""

import flax.linen as nn

from crate_jax.models.layers import cbsa, compression, gradient, ista, mlp, mssa, neumann, overcomplete, tssa
from crate_jax.models.layers.initializers import kaiming
from crate_jax.models.layers.norm import LayerNorm, official_norm, prefixed
from crate_jax.models.layers.settings import Cost, LayerSettings
from crate_jax.models.layers.stochastic_depth import drop_path
from crate_jax.models.layout import constrain, partitioned, token_spec
from crate_jax.operators.normalised import normalised_product
from crate_jax.operators.residuals import name_residual

# name: (module, cost of its forward pass)
COMPRESSIONS = {
    "mssa": (mssa.SubspaceAttention, mssa.cost),
    "tssa": (tssa.TokenStatistics, tssa.cost),
    "cbsa": (cbsa.ContractBroadcast, cbsa.cost),
    "gradient": (gradient.RateGradient, gradient.cost),
    "neumann": (neumann.NeumannGradient, neumann.cost),
}
SPARSIFICATIONS = {
    "ista": (ista.Ista, ista.cost),
    "overcomplete": (overcomplete.Overcomplete, overcomplete.cost),
    "mlp": (mlp.Mlp, mlp.cost),
}

_COMPRESSION = prefixed(compression.OFFICIAL, "0.", "compression/")
ENCODER_OFFICIAL = _COMPRESSION + prefixed(ista.OFFICIAL, "1.", "sparsification/")
ALPHA_OFFICIAL = (  # CRATE-alpha's output projection has no bias
    *(triple for triple in _COMPRESSION if not triple[1].endswith("output_bias")),
    *prefixed(overcomplete.OFFICIAL, "1.", "sparsification/"),
)
DECODER_OFFICIAL = (
    *official_norm("0.norm", "linear_norm"),
    ("0.fn.weight", "linear_kernel", "matrix"),
    *prefixed(compression.OFFICIAL, "1.", "expansion/"),
)
MEANINGS = {
    **compression.MEANINGS, **tssa.MEANINGS, **cbsa.MEANINGS, **ista.MEANINGS, **overcomplete.MEANINGS, **mlp.MEANINGS,
    "linear_kernel": "E: the linear map that undoes ISTA",
    "linear_norm": "LayerNorm before E",
}  # fmt: skip


def sparsify(module, settings, z_BxNxD, name, keep_Bx1x1=None):
    """z+ of the sparsification step that the settings name, as a submodule of `module`; its residual branch times
    stochastic depth's factor of each image."""
    if settings.sparsification == "none":
        return z_BxNxD
    step = SPARSIFICATIONS[settings.sparsification][0](settings, name=name, parent=module)
    out_BxNxD = step(z_BxNxD)
    return z_BxNxD + drop_path(out_BxNxD, keep_Bx1x1) if settings.sparsification_residual else out_BxNxD


class EncoderLayer(nn.Module):
    """One step of the sparse rate reduction: compression, then sparsification."""

    settings: LayerSettings
    num_heads: int  # K
    grid: tuple | None = None  # (rows, columns) of the patches if every one of them is there

    @nn.compact
    def __call__(self, z_BxNxD, keep_SxBx1x1=(None, None)):
        self.sow("intermediates", "input", z_BxNxD)
        compress = COMPRESSIONS[self.settings.compression][0]
        z_BxNxD = compress(self.settings, self.num_heads, grid=self.grid, name="compression")(z_BxNxD, keep_SxBx1x1[0])
        self.sow("intermediates", "compressed", z_BxNxD)
        z_BxNxD = sparsify(self, self.settings, z_BxNxD, "sparsification", keep_SxBx1x1[-1])
        z_BxNxD = constrain(z_BxNxD, "images", None, None)
        self.sow("intermediates", "output", z_BxNxD)
        return z_BxNxD


class DecoderLayer(nn.Module):
    """The reversal of an encoder layer: a map in place of sparsification, then expansion in place of compression."""

    settings: LayerSettings
    num_heads: int
    grid: tuple | None = None

    @nn.compact
    def __call__(self, y_BxNxD):
        self.sow("intermediates", "input", y_BxNxD)
        if self.settings.decoder_map == "linear":
            y_BxNxD = self.linear(y_BxNxD)
        else:
            y_BxNxD = sparsify(self, self.settings, y_BxNxD, "densification")
        y_BxNxD = constrain(name_residual(y_BxNxD, "mapped"), "images", None, None)
        self.sow("intermediates", "mapped", y_BxNxD)
        expand = COMPRESSIONS[self.settings.compression][0]
        y_BxNxD = expand(self.settings, self.num_heads, sign=-1, grid=self.grid, name="expansion")(y_BxNxD)
        self.sow("intermediates", "output", y_BxNxD)
        return y_BxNxD

    def linear(self, y_BxNxD):
        """E LN(y)."""
        width, norm = y_BxNxD.shape[-1], LayerNorm(self.settings.layer_norm_epsilon, name="linear_norm")
        kernel_DxD = self.param("linear_kernel", partitioned(kaiming, "embed", "atoms"), (width, width))
        return normalised_product(
            y_BxNxD, *norm(y_BxNxD, parameters_only=True), kernel_DxD, epsilon=norm.epsilon,
            kernel=self.settings.product_kernel, spec=token_spec(y_BxNxD),
        )  # fmt: skip


def cost(settings, num_heads, width, tokens, *, decoder=False):
    """Arithmetic of a layer's forward pass on one image of `tokens` tokens."""
    total = COMPRESSIONS[settings.compression][1](settings, num_heads, width, tokens)
    if decoder and settings.decoder_map == "linear":
        return total + Cost(2 * tokens * width**2)
    if settings.sparsification == "none":
        return total
    return total + SPARSIFICATIONS[settings.sparsification][1](settings, num_heads, width, tokens)
