"""Other forms of the same networks: CRATE-alpha's Flax archives and PyTorch port, transformers' names of ViTMAE."""

import logging

import jax
import numpy as np
import pytest
import safetensors.numpy

from crate_jax import UserError, load_torch_checkpoint
from crate_jax.interop.checkpoint_file import ParamsCheckpoint
from crate_jax.interop.export import official_arrays, write_official
from crate_jax.interop.network import parameter_shapes, stacked
from crate_jax.models.registry import create_model

ALPHA = {"width": 192, "num_heads": 3, "depth": 2, "image_size": 32, "patch_size": 8, "num_classes": 5}
VIT = {"width": 192, "num_heads": 3, "depth": 2, "image_size": 32, "patch_size": 8, "decoder_depth": 1,
       "decoder_width": 192, "decoder_num_heads": 16}  # fmt: skip


def random_params(model):
    draw = np.random.default_rng(0).normal
    return stacked({path: np.float32(draw(0, 0.1, shape)) for path, shape in parameter_shapes(model).items()})


def same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.fixture(scope="module")
def alpha():
    model = create_model("crate_alpha_base", **ALPHA)
    return model, random_params(model)


def flax_arrays(model, params):
    """What CRATE-alpha's trainer saves: Linen's names, heads as axes of their own."""
    width, heads = model.width, model.num_heads
    size, p = width // heads, model.patch_size
    arrays = {
        "embedding/kernel": params["embedding_kernel"].reshape(p, p, 3, width),
        "embedding/bias": params["embedding_bias"],
        "cls": params["class_token"].reshape(1, 1, width),
        "pos_embedding": params["position_table"][None],
        "encoder_norm/scale": params["encoder_norm"]["scale"], "encoder_norm/bias": params["encoder_norm"]["bias"],
        "head/kernel": params["head_kernel"], "head/bias": params["head_bias"],
    }  # fmt: skip
    for layer in range(model.depth):
        one = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["encoder"])
        attention, sparse = one["compression"], one["sparsification"]
        block = f"Transformer/encoderblock_{layer}"
        arrays |= {
            f"{block}/LayerNorm_0/scale": attention["attention_norm"]["scale"],
            f"{block}/LayerNorm_0/bias": attention["attention_norm"]["bias"],
            f"{block}/LayerNorm_1/scale": sparse["ista_norm"]["scale"],
            f"{block}/LayerNorm_1/bias": sparse["ista_norm"]["bias"],
            f"{block}/OvercompleteISTABlock_0/D": sparse["dictionary"],
            f"{block}/OvercompleteISTABlock_0/D1": sparse["readout"],
        }
        mssa = f"{block}/MultiHeadDotProductSubspaceAttention_0"
        arrays[f"{mssa}/proj/kernel"] = attention["attention"]["subspaces"].reshape(width, heads, size)
        arrays[f"{mssa}/out/kernel"] = attention["attention"]["output_kernel"].reshape(heads, size, width)
    return arrays


@pytest.mark.parametrize("prefix", ["", "params/"])
def test_crate_alpha_in_flax(alpha, tmp_path, caplog, prefix):
    model, params = alpha
    np.savez(tmp_path / "alpha.npz", **{prefix + name: array for name, array in flax_arrays(model, params).items()})
    with caplog.at_level(logging.WARNING):
        found, loaded = load_torch_checkpoint(tmp_path / "alpha.npz")
    assert found == model and "num_heads=3" in caplog.text and "lambda_=0.1" in caplog.text
    assert "Others: num_heads=, lambda_=" in caplog.text
    same(loaded, params)


def test_crate_alpha_in_pytorch(alpha, tmp_path):
    model, params = alpha
    arrays = {name: np.ascontiguousarray(array) for name, array in official_arrays(model, params).items()}
    assert arrays["transformer.layers.1.1.fn.D1"].shape == (192, 768)
    assert not any("to_out.0.bias" in name for name in arrays)
    safetensors.numpy.save_file(arrays, tmp_path / "alpha.safetensors")
    found, loaded = load_torch_checkpoint(tmp_path / "alpha.safetensors", num_heads=3)
    assert found == model
    same(loaded, params)
    write_official(
        ParamsCheckpoint(model, params, "crate_alpha_base", ALPHA), tmp_path / "o.safetensors", "safetensors"
    )
    same(load_torch_checkpoint(tmp_path / "o.safetensors")[1], params)


def test_a_clip_file_is_refused(alpha, tmp_path):
    arrays = flax_arrays(*alpha) | {"txt/Embed_0/embedding": np.zeros((3, 3), np.float32)}
    np.savez(tmp_path / "clip.npz", **arrays)
    with pytest.raises(UserError, match="txt/Embed_0/embedding belongs to no CRATE-alpha classifier"):
        load_torch_checkpoint(tmp_path / "clip.npz")


def transformers_names(arrays, style):
    """Meta's names as transformers has them: before and after its version 5."""
    renamed = {}
    inside = {"query": ("query", "q_proj"), "key": ("key", "k_proj"), "value": ("value", "v_proj")}
    for name, array in arrays.items():
        decoder = name.startswith("decoder")
        layers = "vit.encoder.layer." if style == "old" else "vit.layers."
        name = name.replace("decoder_blocks.", "decoder.decoder_layers.")
        name = layers + name.removeprefix("blocks.") if name.startswith("blocks.") else name
        for old, new in (("norm1", "layernorm_before"), ("norm2", "layernorm_after")):
            name = name.replace(f".{old}.", f".{new}.")
        if style == "old":
            for old, new in (("attn.proj", "attention.output.dense"), ("mlp.fc1", "intermediate.dense"),
                             ("mlp.fc2", "output.dense")):  # fmt: skip
                name = name.replace(old, new)
        name = name.replace("attn.proj", "attention.o_proj")
        name = {"cls_token": "vit.embeddings.cls_token", "pos_embed": "vit.embeddings.position_embeddings",
                "mask_token": "decoder.mask_token"}.get(name, name)  # fmt: skip
        name = name.replace("patch_embed.proj", "vit.embeddings.patch_embeddings.projection")
        name = "vit.layernorm" + name[len("norm") :] if name.startswith("norm.") else name
        if decoder and not name.startswith("decoder.decoder_layers"):
            name = f"decoder.{name}"
        if ".attn.qkv." in name:
            for (_, pair), part in zip(inside.items(), np.split(array, 3), strict=True):
                word = f"attention.attention.{pair[0]}" if style == "old" else f"attention.{pair[1]}"
                renamed[name.replace("attn.qkv", word)] = np.ascontiguousarray(part)
        else:
            renamed[name] = np.ascontiguousarray(array)
    return renamed


@pytest.mark.parametrize("style", ["old", "new"])
def test_transformers_vit_mae(tmp_path, style, caplog):
    model = create_model("vit_mae_base", **VIT)
    params = random_params(model)
    arrays = transformers_names(official_arrays(model, params), style)
    assert any(name.startswith("vit.") for name in arrays) and len(arrays) > 40
    safetensors.numpy.save_file(arrays, tmp_path / "vit.safetensors")
    with caplog.at_level(logging.WARNING):
        found, loaded = load_torch_checkpoint(tmp_path / "vit.safetensors", image_size=32, num_heads=3)
    assert found == model and "decoder_num_heads=16: assumed" in caplog.text
    assert "Others: decoder_num_heads= (in commands --config.model.decoder_num_heads=)" in caplog.text
    same(loaded, params)
