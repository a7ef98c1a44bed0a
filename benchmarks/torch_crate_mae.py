"""CRATE-MAE in PyTorch, written for comparison: official options, and all that PyTorch has without custom code.

Fused attention, ISTA in two products, weights laid out as `F.linear` likes them. `benchmarks/train_step.py` checks that
it computes our loss before it is timed.
"""

import numpy as np
import torch
import torch.nn.functional as F

from crate_jax.operators.masking import num_visible
from crate_jax.operators.positions import sincos_positions

_AS_THEY_ARE = ("dictionary", "class_token", "mask_token")  # other matrices are stored transposed, for F.linear


class TorchCrateMae(torch.nn.Module):
    """CRATE-MAE with its loss, official options.

    Args:
        model: a `CrateMae`, for its sizes.
        params: its parameters, a flat dictionary with names joined by "/".
        mean, std: of the pixels, a number a channel.
    """

    def __init__(self, model, params, mean, std):
        super().__init__()
        # plain values, not the Linen module: torch.compile then sees one graph
        self.num_heads, self.eta, self.lambda_ = model.num_heads, model.eta, model.lambda_
        self.grid, self.patch_size, self.num_patches = tuple(model.grid), model.patch_size, model.num_patches
        self.width, self.drops, self.takes_tokens = model.width, model.mask_mode == "drop", model.mask_mode == "token"
        self.num_visible = num_visible(model.num_patches, model.mask_ratio)
        self.encoder_names, self.decoder_names = list(model.encoder_names), list(model.decoder_names)
        self.p = torch.nn.ParameterDict()
        for name, value in params.items():
            value = torch.from_numpy(np.array(value))
            as_it_is = value.ndim < 2 or name.endswith(_AS_THEY_ARE)
            self.p[name] = torch.nn.Parameter(value if as_it_is else value.T.contiguous())
        self.register_buffer("table", torch.from_numpy(np.array(sincos_positions(model.grid, model.width), np.float32)))
        self.register_buffer("mean", torch.tensor(mean) * 255)
        self.register_buffer("std", torch.tensor(std) * 255)

    def norm(self, z, name, epsilon=1e-5):
        """LayerNorm."""
        return F.layer_norm(z, z.shape[-1:], self.p[f"{name}/scale"], self.p[f"{name}/bias"], epsilon)

    def moved(self, z, name):
        """MSSA(LN(z)) and its output projection."""
        codes = F.linear(self.norm(z, f"{name}/attention_norm"), self.p[f"{name}/attention/subspaces"])
        heads = codes.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        moved = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
        return F.linear(moved, self.p[f"{name}/attention/output_kernel"], self.p[f"{name}/attention/output_bias"])

    def encoder_layer(self, z, name):
        """Compression, then ISTA."""
        z = z + self.moved(z, f"{name}/compression")
        z = self.norm(z, f"{name}/sparsification/ista_norm")
        dictionary = self.p[f"{name}/sparsification/dictionary"]
        residual = z - F.linear(z, dictionary)
        return F.relu(z + self.eta * (residual @ dictionary - self.lambda_))

    def decoder_layer(self, y, name):
        """A linear map, then expansion."""
        y = F.linear(self.norm(y, f"{name}/linear_norm"), self.p[f"{name}/linear_kernel"])
        return y - self.moved(y, f"{name}/expansion")

    def forward(self, pixels, mask):
        """The mean squared error of removed patches.

        Args:
            pixels: uint8, B x H x W x C.
            mask: B x N, 1 where removed.
        """
        p, size = self.p, self.patch_size
        images = (pixels.float() - self.mean) / self.std
        rows, columns = self.grid
        patches = images.reshape(len(images), rows, size, columns, size, -1).transpose(2, 3).flatten(3).flatten(1, 2)
        patches = patches.reshape(len(images), rows * columns, -1)
        z = F.linear(patches, p["embedding_kernel"], p["embedding_bias"])
        if self.takes_tokens:
            z = torch.where(mask[..., None] > 0, p["mask_token"], z)
        z = z + self.table[1:]
        if self.drops:
            order = mask.argsort(dim=1, stable=True)
            z = z.gather(1, order[:, : self.num_visible, None].expand(-1, -1, self.width))
        z = torch.cat([(p["class_token"] + self.table[0]).expand(len(z), 1, -1), z], 1)
        for name in self.encoder_names:
            z = self.encoder_layer(z, name)
        z = self.norm(z, "encoder_norm", 1e-6)
        if self.drops:
            removed = p["mask_token"].expand(len(z), self.num_patches + 1 - z.shape[1], -1)
            place = order.argsort(1)[..., None].expand(-1, -1, self.width)
            z = torch.cat([z[:, :1], torch.cat([z[:, 1:], removed], 1).gather(1, place)], 1) + self.table
        for name in self.decoder_names:
            z = self.decoder_layer(z, name)
        out = F.linear(self.norm(z, "decoder_norm", 1e-6)[:, 1:], p["head_kernel"], p["head_bias"])
        return (((out - patches) ** 2).mean(-1) * mask).sum() / mask.sum()
