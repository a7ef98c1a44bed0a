"""Which official tensor is which parameter, for every family of networks.

    CRATE-MAE    blocks.L.layers.0.0 is U (compression), .0.1 is D (ISTA); in decoder_blocks .0.0 is E, .0.1 is V
    CRATE        transformer.layers.L.0 is U, .1 is D (the supervised network)
    ViT          Meta's MAE and timm: blocks.L.{norm1,attn,norm2,mlp}; query, key and value fused in one matrix

The names within a layer stand in the layer's file (`models.layers`); this is the only place that names parameters per
layer ("encoder_03/..."), as every foreign checkpoint does.
"""

import dataclasses

from crate_jax.interop.layouts import LAYOUTS
from crate_jax.models.classifier import CrateAlpha
from crate_jax.models.encoder import WhiteBox
from crate_jax.models.layers import crate, vit
from crate_jax.models.layers.norm import official_norm
from crate_jax.models.sizes import ALPHA_LAYER


@dataclasses.dataclass(frozen=True)
class Link:
    """One official tensor and the parameter it is.

    Attributes:
        official: the tensor's name in a state dict.
        path: the parameter's, joined by slashes.
        layout: how the one becomes the other: a key of `layouts.LAYOUTS`.
    """

    official: str
    path: str
    layout: str

    def from_official(self, array, shape):
        """The parameter, of `shape`, that an official tensor holds."""
        return LAYOUTS[self.layout].inward(array, shape)

    def to_official(self, array, shape):
        """The official tensor, of `shape`, that a parameter is."""
        return LAYOUTS[self.layout].outward(array, shape)


def _links(triples, official="", path=""):
    return [Link(official + theirs, path + ours, layout) for theirs, ours, layout in triples]


def _norm(official, path):
    return _links(official_norm(official, path))


def is_official(model):
    """Whether the layers are those of the network's official class: CRATE's, CRATE-alpha's or a transformer's."""
    if not isinstance(model, WhiteBox):
        return True
    if isinstance(model, CrateAlpha):
        wanted = {**ALPHA_LAYER, "readout": "free", "sparsification_steps": 2}
    else:
        wanted = {"sparsification": "ista", "sparsification_residual": False, "layer_norm_epsilon": 1e-5}
    wanted = {"compression": "mssa", "compression_step": "add", "layer_scale": None, **wanted}
    free = {"eta", "lambda_"}  # in no tensor, so any value will do
    return all(getattr(model, name) == value for name, value in wanted.items() if name not in free)


def crate_encoder_layer(official, path):
    """Compression against U, then ISTA with D."""
    return _links(crate.ENCODER_OFFICIAL, f"{official}.", f"{path}/")


def crate_decoder_layer(official, path):
    """The map E, then expansion from V."""
    return _links(crate.DECODER_OFFICIAL, f"{official}.", f"{path}/")


def vit_layer(official, path):
    """Attention and MLP, with Meta's and timm's names."""
    return _links(vit.OFFICIAL, f"{official}.", f"{path}/")


def _dense(official, path):
    return [Link(f"{official}.weight", f"{path}_kernel", "matrix"), Link(f"{official}.bias", f"{path}_bias", "same")]


def _embedding():
    return [
        Link("patch_embed.proj.weight", "embedding_kernel", "patches"),
        Link("patch_embed.proj.bias", "embedding_bias", "same"),
        Link("cls_token", "class_token", "row"),
    ]


def masked_autoencoder_links(model, encoder_layer, decoder_layer):
    """CRATE-MAE and ViT-MAE: the frame is one, the layers differ."""
    links = [*_embedding(), Link("mask_token", "mask_token", "row"), *_norm("norm", "encoder_norm")]
    for number, name in enumerate(model.encoder_names):
        links += encoder_layer("blocks", number, name)
    for number, name in enumerate(model.decoder_names):
        links += decoder_layer("decoder_blocks", number, name)
    links += _norm("decoder_norm", "decoder_norm") + _dense("decoder_pred", "head")
    return links + _dense("decoder_embed", "decoder_embedding")


def crate_mae_links(model):
    """The official CRATE-MAE (`model/crate_ae`)."""
    return masked_autoencoder_links(
        model,
        lambda prefix, number, name: crate_encoder_layer(f"{prefix}.{number}.layers.0", name),
        lambda prefix, number, name: crate_decoder_layer(f"{prefix}.{number}.layers.0", name),
    )


def vit_mae_links(model):
    """Meta's MAE."""

    def layer(prefix, number, name):
        return vit_layer(f"{prefix}.{number}", name)

    return masked_autoencoder_links(model, layer, layer)


def crate_links(model):
    """The official supervised CRATE (`model/crate.py`)."""
    links = [
        *_norm("to_patch_embedding.1", "patch_norm"),
        *_dense("to_patch_embedding.2", "embedding"),
        *_norm("to_patch_embedding.3", "embedding_norm"),
        Link("cls_token", "class_token", "row"),
        Link("pos_embedding", "position_table", "row"),
        *_norm("mlp_head.0", "encoder_norm"),
        *_dense("mlp_head.1", "head"),
    ]
    for number, name in enumerate(model.encoder_names):
        links += crate_encoder_layer(f"transformer.layers.{number}", name)
    return links


def crate_alpha_links(model):
    """The official supervised CRATE-alpha (`torch_inference/model/crate_alpha.py`)."""
    links = [
        Link("conv1.weight", "embedding_kernel", "patches"),
        Link("conv1.bias", "embedding_bias", "same"),
        Link("cls_token", "class_token", "row"),
        Link("pos_embedding", "position_table", "row"),
        *_norm("mlp_head.0", "encoder_norm"),
        *_dense("mlp_head.1", "head"),
    ]
    for number, name in enumerate(model.encoder_names):
        links += _links(crate.ALPHA_OFFICIAL, f"transformer.layers.{number}.", f"{name}/")
    return links


def vit_classifier_links(model):
    """timm's ViT, and Meta's fine-tuned MAE, whose norm after pooling is called fc_norm."""
    links = [
        *_embedding(),
        Link("pos_embed", "position_table", "row"),
        *_norm("norm" if model.pooling == "cls" else "fc_norm", "encoder_norm"),
        *_dense("head", "head"),
    ]
    for number, name in enumerate(model.encoder_names):
        links += vit_layer(f"blocks.{number}", name)
    return links
