"""How far the networks here are from the code they follow, number by number: the README's table.

    python benchmarks/parity.py --official=CHECKOUT [--size=base] [--images=2]

CHECKOUT is a clone of github.com/Ma-Lab-Berkeley/CRATE; PyTorch, einops and transformers must be installed. Every
network gets random weights (norms and biases perturbed, so that nothing is trivial), the same images, the same mask.
Errors are max |ours - theirs| / max |theirs|, f32 on the CPU. Of layers the worst is shown.
"""

import argparse
import contextlib
import copy
import pathlib
import sys
import tempfile
import types

import einops
import jax
import jax.numpy as jnp
import numpy as np
import torch

from crate_jax.interop.checkpoint_file import ParamsCheckpoint, load_torch_checkpoint, open_checkpoint, write_folder
from crate_jax.interop.export import official_arrays, write_official
from crate_jax.models.trace import trace
from crate_jax.operators.losses import masked_mse
from crate_jax.operators.masking import mask_from_noise, num_visible
from crate_jax.operators.subspace_attention import split_heads, subspace_attention_weights

SIZES = {"tiny": (384, 12, 6), "small": (576, 12, 12), "base": (768, 12, 12), "large": (1024, 24, 16)}


class PatchEmbed(torch.nn.Module):
    """What the official CRATE-MAE takes from timm: a convolution whose stride is its kernel."""

    def __init__(self, img_size, patch_size, in_chans, embed_dim, strict_img_size=True):
        super().__init__()
        self.patch_size, self.num_patches = (patch_size, patch_size), (img_size // patch_size) ** 2
        self.proj = torch.nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


def import_official(checkout):
    """The official modules, with a stand-in for timm."""
    for name in ("timm", "timm.models", "timm.models.vision_transformer"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["timm.models.vision_transformer"].PatchEmbed = PatchEmbed
    sys.modules["timm.models.vision_transformer"].Block = torch.nn.Identity
    sys.path.insert(0, str(checkout))
    from model import crate
    from model.crate_ae import crate_ae

    return crate, crate_ae


def perturb(module):
    """Moves norms and biases off 1 and 0."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            if name.endswith("mlp_head.1.weight"):
                parameter.mul_(3)
    return module.eval()


def error(ours, theirs):
    """max |ours - theirs| / max |theirs|."""
    ours = np.asarray(ours, np.float64)
    theirs = (theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else theirs).astype(np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@contextlib.contextmanager
def fixed_noise(noise_BxN):
    """torch.rand as the official masking calls it gives this noise."""
    rand, torch.rand = torch.rand, lambda *_, **__: torch.from_numpy(noise_BxN)
    try:
        yield
    finally:
        torch.rand = rand


def loaded(module, folder, **settings):
    """A PyTorch network, through a file, as ours."""
    state = module if isinstance(module, dict) else module.state_dict()
    path = pathlib.Path(folder) / "official.pth"
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 799}, path)
    return load_torch_checkpoint(path, **settings)


def layers_error(ours, codes, num_heads):
    """(worst error of a layer's keys, worst of its attention maps), from the official `qkv` outputs."""
    keys, maps = [], []
    for index, theirs in enumerate(codes):
        layer = ours[f"encoder_{index:02d}"]
        keys.append(error(layer["codes"], theirs))
        w = einops.rearrange(theirs, "b n (h d) -> b h n d", h=num_heads)
        attention = torch.softmax(w @ w.transpose(-1, -2) * w.shape[-1] ** -0.5, -1)
        codes_BxTxKxP = split_heads(layer["codes"], num_heads)
        maps.append(error(subspace_attention_weights(codes_BxTxKxP, scale=w.shape[-1] ** -0.5), attention))
    return max(keys), max(maps)


def outputs_of(modules):
    """A list that will hold what each of `modules` gives."""
    kept = []
    for module in modules:
        module.register_forward_hook(lambda _, __, output: kept.append(output.detach()))
    return kept


def crate_mae_rows(crate_ae, size, images, folder):
    """CRATE-MAE: forward, backward, every layer, another resolution, and back into the official class."""
    torch.manual_seed(0)
    theirs = perturb(getattr(crate_ae, f"mae_crate_{size}")())
    model, params = loaded(theirs, folder)
    images_BxHxWxC = jnp.asarray(images.transpose(0, 2, 3, 1))
    noise_BxN = np.random.default_rng(1).random((len(images), model.num_patches), np.float32)
    mask_BxN = mask_from_noise(jnp.asarray(noise_BxN), num_visible(model.num_patches, model.mask_ratio))

    def loss(params):
        output = model.apply({"params": params}, images_BxHxWxC, mask_BxN)
        return masked_mse(images_BxHxWxC, output.prediction_BxNxF, mask_BxN, model.patch_size), output

    (value, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    with fixed_noise(noise_BxN), torch.no_grad():
        latent, _, _ = theirs.forward_encoder(torch.from_numpy(images), 0.75)
        official_value, prediction, _ = theirs(torch.from_numpy(images))
    rows = [("latent", error(output.latent_BxTxD, latent)), ("prediction", error(output.prediction_BxNxF, prediction))]
    rows.append(("loss", error(value, official_value)))
    ours = official_arrays(model, gradients)
    f32, f64 = (official_gradients(theirs, images, noise_BxN, dtype) for dtype in (torch.float32, torch.float64))
    assert set(ours) == set(f32)
    for what, one, other in (
        ("gradient against the official one in f64", ours, f64),
        ("the same, against it in f32", ours, f32),
        ("the same, the official one in f32 against itself in f64", f32, f64),
    ):
        rows.append((f"{what}, worst of {len(one)} tensors", max(error(one[name], other[name]) for name in one)))
    codes = outputs_of(block.layers[0][0].fn.qkv for block in theirs.blocks)
    for pixels, what in ((images.shape[-1], ""), (images.shape[-1] + 64, f", at {images.shape[-1] + 64} pixels")):
        larger = np.random.default_rng(2).standard_normal((len(images), 3, pixels, pixels), np.float32)
        codes.clear()
        with torch.no_grad():
            theirs.get_last_key_enc(torch.from_numpy(larger), layer=model.depth - 1)
        layers = trace(model, params, jnp.asarray(larger.transpose(0, 2, 3, 1)))[1]
        keys, maps = layers_error(layers, codes, model.num_heads)
        rows += [(f"keys, worst of {model.depth} layers{what}", keys), (f"attention maps, same{what}", maps)]
    rows.append((f"attention maps, the official code in f32 against itself in f64{what}", own_rounding(theirs, larger)))
    largest, squared = bfloat16_error(model, params, images_BxHxWxC, mask_BxN)
    rows += [("bfloat16 prediction against float32", largest), ("the same, root mean square", squared)]
    strict_round_trip(theirs, model, params, folder)
    return rows


def official_gradients(theirs, images, noise_BxN, dtype):
    """The official gradient, by name. In f32 an entry at ISTA's kink may fall on its other side; f64 is the judge."""
    module = copy.deepcopy(theirs).to(dtype)
    with fixed_noise(noise_BxN):
        module(torch.from_numpy(images).to(dtype))[0].backward()
    return {name: p.grad.numpy() for name, p in module.named_parameters() if p.grad is not None}


def own_rounding(theirs, images):
    """The worst error of the official code's attention maps from f32 rounding alone: no agreement can be closer."""
    maps = []
    for layer in range(len(theirs.blocks)):
        with torch.no_grad():
            f32 = theirs.float().get_selfattention_enc(torch.from_numpy(images), layer=layer)
            f64 = theirs.double().get_selfattention_enc(torch.from_numpy(images).double(), layer=layer)
        maps.append(error(f32, f64))
    theirs.float()
    return max(maps)


def strict_round_trip(theirs, model, params, folder):
    """Through our folder and back: strict=True loads it, and every bit is as it was."""
    folder = pathlib.Path(folder)
    write_folder(open_checkpoint(folder / "official.pth", {}), folder / "flax")
    write_official(open_checkpoint(folder / "flax", {}), folder / "back.pth", "torch")
    back = torch.load(folder / "back.pth", weights_only=True)["model"]
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())
    write_official(ParamsCheckpoint(model, params, "crate_mae", {}), folder / "fresh.pth", "torch")
    theirs.load_state_dict(torch.load(folder / "fresh.pth", weights_only=True)["model"], strict=True)


def bfloat16_error(model, params, *inputs):
    """(largest, root mean square) deviation of the output, over the largest and over the root mean square."""
    outputs = (m.apply({"params": params}, *inputs) for m in (model, model.clone(dtype=jnp.bfloat16)))
    f32, bf16 = (
        np.asarray(getattr(o, "prediction_BxNxF", getattr(o, "logits_BxC", None)), np.float64) for o in outputs
    )
    return np.abs(bf16 - f32).max() / np.abs(f32).max(), np.sqrt(np.mean((bf16 - f32) ** 2) / np.mean(f32**2))


def crate_rows(crate, size, images, folder):
    """The supervised CRATE: logits, and every layer's keys and maps."""
    torch.manual_seed(0)
    theirs = perturb(getattr(crate, f"CRATE_{size}")())
    model, params = loaded(theirs, folder)
    codes = outputs_of(layer[0].fn.qkv for layer in theirs.transformer.layers)
    with torch.no_grad():
        logits = theirs(torch.from_numpy(images))
    images_BxHxWxC = jnp.asarray(images.transpose(0, 2, 3, 1))
    output, layers = trace(model, params, images_BxHxWxC)
    keys, maps = layers_error(layers, codes, model.num_heads)
    largest, squared = bfloat16_error(model, params, images_BxHxWxC)
    return [
        ("logits", error(output.logits_BxC, logits)),
        (f"keys, worst of {model.depth} layers", keys),
        ("attention maps, same", maps),
        ("bfloat16 logits against float32", largest),
        ("the same, root mean square", squared),
    ]


def meta_names(state):
    """transformers' names of ViTMAE to Meta's, query, key and value fused."""
    renamed = {}
    plain = {
        "vit.embeddings.cls_token": "cls_token", "vit.embeddings.position_embeddings": "pos_embed",
        "vit.embeddings.patch_embeddings.projection": "patch_embed.proj", "vit.layernorm": "norm",
        "vit.layers": "blocks", "decoder.decoder_layers": "decoder_blocks", "attention.o_proj": "attn.proj",
        "layernorm_before": "norm1", "layernorm_after": "norm2", "decoder.": "",
    }  # fmt: skip
    for name, tensor in state.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:
            tensor = torch.cat([state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            name = name.replace("attention.q_proj", "attn.qkv")
        for old, new in plain.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def with_tables(network):
    """transformers' ViTMAE with its sine-cosine tables, which stay zero when it is built from a config."""
    embeddings = network.vit.embeddings
    embeddings.patch_embeddings.projection._is_hf_initialized = False
    embeddings.initialize_weights()
    network.decoder.initialize_weights(embeddings.patch_embeddings.num_patches)
    return network


def vit_mae_rows(size, images, folder):
    """Meta's MAE as transformers has it: prediction, loss, and every layer's attention."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    torch.manual_seed(0)
    width, depth, heads = SIZES[size]
    config = ViTMAEConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width,
        layer_norm_eps=1e-6, image_size=images.shape[-1], attn_implementation="eager",
    )  # fmt: skip
    theirs = perturb(with_tables(ViTMAEForPreTraining(config)))
    model, params = loaded(meta_names(theirs.state_dict()), folder, num_heads=heads)
    noise_BxN = np.random.default_rng(1).random((len(images), model.num_patches), np.float32)
    with torch.no_grad():
        result = theirs(torch.from_numpy(images), noise=torch.from_numpy(noise_BxN), output_attentions=True)
    images_BxHxWxC = jnp.asarray(images.transpose(0, 2, 3, 1))
    mask_BxN = mask_from_noise(jnp.asarray(noise_BxN), num_visible(model.num_patches, model.mask_ratio))
    output, layers = trace(model, params, images_BxHxWxC, mask_BxN)
    rows = [("prediction", error(output.prediction_BxNxF, result.logits))]
    rows.append(("loss", error(masked_mse(images_BxHxWxC, output.prediction_BxNxF, mask_BxN, 16), result.loss)))
    # theirs keep the visible patches in the order of the noise, ours in the order of the image
    visible = num_visible(model.num_patches, model.mask_ratio)
    kept_BxV = np.sort(order_BxV := np.argsort(noise_BxN, 1, kind="stable")[:, :visible], 1)
    place_BxV = np.stack([np.searchsorted(k, o) for k, o in zip(kept_BxV, order_BxV, strict=True)])
    index_BxT = np.concatenate([np.zeros((len(images), 1), int), place_BxV + 1], 1)
    errors = []
    for index, theirs_BxKxTxT in enumerate(result.attentions[:depth]):
        layer = layers[f"encoder_{index:02d}"]
        scores = jnp.einsum("bqkp,bskp->bkqs", layer["query"], layer["key"]) * layer["key"].shape[-1] ** -0.5
        ours = np.asarray(jax.nn.softmax(scores, -1))
        ours = np.stack([a[:, i][:, :, i] for a, i in zip(ours, index_BxT, strict=True)])
        errors.append(error(ours, theirs_BxKxTxT))
    rows.append((f"attention maps, worst of {depth} encoder layers", max(errors)))
    largest, squared = bfloat16_error(model, params, images_BxHxWxC, mask_BxN)
    return [*rows, ("bfloat16 prediction against float32", largest), ("the same, root mean square", squared)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", required=True, help="a clone of Ma-Lab-Berkeley/CRATE")
    parser.add_argument("--size", default="base", choices=SIZES)
    parser.add_argument("--images", type=int, default=2)
    arguments = parser.parse_args()
    crate, crate_ae = import_official(arguments.official)
    images = np.random.default_rng(0).standard_normal((arguments.images, 3, 224, 224)).astype(np.float32)
    print(f"| {arguments.size}, {arguments.images} images of 224 pixels, f32 | error |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for title, rows in (
            ("CRATE-MAE", lambda: crate_mae_rows(crate_ae, arguments.size, images, folder)),
            ("CRATE (supervised)", lambda: crate_rows(crate, arguments.size, images, folder)),
            ("ViT-MAE", lambda: vit_mae_rows(arguments.size, images, folder)),
        ):
            for what, number in rows():
                print(f"| {title}: {what} | {number:.1e} |", flush=True)


if __name__ == "__main__":
    main()
