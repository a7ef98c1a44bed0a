"""Which official tensor is which parameter, for every family of networks.

    CRATE-MAE    blocks.L.layers.0.0 is U (compression), .0.1 is D (ISTA); in decoder_blocks .0.0 is E, .0.1 is V
    CRATE        transformer.layers.L.0 is U, .1 is D (the supervised network)
    ViT          Meta's MAE and timm: blocks.L.{norm1,attn,norm2,mlp}; query, key and value fused in one matrix

The names here are templates: `{layer}` is the layer's number, `{norm}` expands to weight and bias.
"""

import dataclasses

from crate_jax.interop.layouts import LAYOUTS

_NORM = (("weight", "scale"), ("bias", "bias"))


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


def _norm(official, path):
    return [Link(f"{official}.{theirs}", f"{path}/{ours}", "same") for theirs, ours in _NORM]


def _attention(official, path):
    return [
        Link(f"{official}.fn.qkv.weight", f"{path}/attention/subspaces", "matrix"),
        Link(f"{official}.fn.to_out.0.weight", f"{path}/attention/output_kernel", "matrix"),
        Link(f"{official}.fn.to_out.0.bias", f"{path}/attention/output_bias", "same"),
        *_norm(f"{official}.norm", f"{path}/attention_norm"),
    ]


def crate_encoder_layer(official, path):
    """Compression against U, then ISTA with D."""
    return [
        *_attention(f"{official}.0", f"{path}/compression"),
        *_norm(f"{official}.1.norm", f"{path}/sparsification/ista_norm"),
        # the official ISTA multiplies x by W^T where the paper has D z: W is D as it stands
        Link(f"{official}.1.fn.weight", f"{path}/sparsification/dictionary", "same"),
    ]


def crate_decoder_layer(official, path):
    """The map E, then expansion from V."""
    return [
        *_norm(f"{official}.0.norm", f"{path}/linear_norm"),
        Link(f"{official}.0.fn.weight", f"{path}/linear_kernel", "matrix"),
        *_attention(f"{official}.1", f"{path}/expansion"),
    ]


def vit_layer(official, path):
    """Attention and MLP, with Meta's and timm's names."""
    dense = (("attn.qkv", "qkv"), ("attn.proj", "output"), ("mlp.fc1", "up"), ("mlp.fc2", "down"))
    return [
        *_norm(f"{official}.norm1", f"{path}/attention_norm"),
        *_norm(f"{official}.norm2", f"{path}/mlp_norm"),
        *(Link(f"{official}.{theirs}.weight", f"{path}/{ours}_kernel", "matrix") for theirs, ours in dense),
        *(Link(f"{official}.{theirs}.bias", f"{path}/{ours}_bias", "same") for theirs, ours in dense),
    ]


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
