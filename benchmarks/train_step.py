"""A full pre-training step on this machine, beside a PyTorch network of the same specification.

    python benchmarks/train_step.py [--sizes=tiny,small,base] [--batches=8,16] [--masks=token,drop] [--rounds=5]
                                    [--compile] [--small] [--out=FILE.json]

Forward, backward and AdamW in f32, images of 224 pixels; the very step of `crate-jax pretrain`. PyTorch (extra torch)
is given every advantage that it has without custom code: fused attention, fused AdamW, ISTA in two products, weights
laid out as it likes them; eager, and with --compile also `torch.compile`. Both begin with the same parameters; that
they compute the same loss on the same mask is checked first. Then they take turns, a step each, and medians are
printed. FLOP are counted by formula (`models.flops`); "of peak" is their rate over that of this machine's best matrix
product, the better of the two frameworks. --small is a network of seconds, to see that all this works.
"""

import argparse
import json
import os
import statistics
import time

import flax
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from crate_jax.config import default_config
from crate_jax.models.flops import flops_per_image
from crate_jax.operators.masking import example_masks, num_visible
from crate_jax.operators.positions import sincos_positions
from crate_jax.training.optimizer import decay_mask
from crate_jax.training.program import build_program

SMALL = {"width": 48, "num_heads": 3, "depth": 2, "decoder_depth": 2, "image_size": 32, "patch_size": 8}
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
        self.model = model
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
        heads = codes.unflatten(-1, (self.model.num_heads, -1)).transpose(1, 2)
        moved = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
        return F.linear(moved, self.p[f"{name}/attention/output_kernel"], self.p[f"{name}/attention/output_bias"])

    def encoder_layer(self, z, name):
        """Compression, then ISTA."""
        z = z + self.moved(z, f"{name}/compression")
        z = self.norm(z, f"{name}/sparsification/ista_norm")
        dictionary = self.p[f"{name}/sparsification/dictionary"]
        residual = z - F.linear(z, dictionary)
        return F.relu(z + self.model.eta * (residual @ dictionary - self.model.lambda_))

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
        model, p = self.model, self.p
        images, size = (pixels.float() - self.mean) / self.std, model.patch_size
        rows, columns = model.grid
        patches = images.reshape(len(images), rows, size, columns, size, -1).transpose(2, 3).flatten(3).flatten(1, 2)
        patches = patches.reshape(len(images), rows * columns, -1)
        z = F.linear(patches, p["embedding_kernel"], p["embedding_bias"])
        if model.mask_mode == "token":
            z = torch.where(mask[..., None] > 0, p["mask_token"], z)
        z = z + self.table[1:]
        if model.mask_mode == "drop":
            order = mask.argsort(dim=1, stable=True)
            visible = order[:, : num_visible(model.num_patches, model.mask_ratio)]
            z = z.gather(1, visible[..., None].expand(-1, -1, model.width))
        z = torch.cat([(p["class_token"] + self.table[0]).expand(len(z), 1, -1), z], 1)
        for name in model.encoder_names:
            z = self.encoder_layer(z, name)
        z = self.norm(z, "encoder_norm", 1e-6)
        if model.mask_mode == "drop":
            removed = p["mask_token"].expand(len(z), model.num_patches + 1 - z.shape[1], -1)
            place = order.argsort(1)[..., None].expand(-1, -1, model.width)
            z = torch.cat([z[:, :1], torch.cat([z[:, 1:], removed], 1).gather(1, place)], 1) + self.table
        for name in model.decoder_names:
            z = self.decoder_layer(z, name)
        out = F.linear(self.norm(z, "decoder_norm", 1e-6)[:, 1:], p["head_kernel"], p["head_bias"])
        return (((out - patches) ** 2).mean(-1) * mask).sum() / mask.sum()


def settings(size, mask_mode, batch, small):
    """The config of a case."""
    config = default_config()
    config.total_steps, config.batch_size = 1000, batch
    config.model.name, config.model.mask_mode = f"crate_mae_{size}", mask_mode
    for name, value in (SMALL if small else {}).items():
        config.model[name] = value
    return config


def our_step(program):
    """(a function that takes one step and waits for it, the parameters to begin with)."""
    model, batch = program.model, program.config.batch_size
    state = program.new_state()
    params = flax.traverse_util.flatten_dict(jax.device_get(state.params), sep="/")
    data = jax.device_put(random_batch(model, batch))

    def step():
        nonlocal state
        state, metrics = program.step(state, data)
        return float(jax.block_until_ready((state, metrics))[1]["loss"])

    return step, params


def random_batch(model, batch):
    """Pixels at random."""
    size = (batch, model.image_size, model.image_size, model.channels)
    images = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    return {
        "image": images,
        "label": np.zeros(batch, "i4"),
        "index": np.arange(batch, dtype="i4"),
        "epoch": np.zeros(batch, "i4"),
    }


def first_mask(program):
    """The mask that our step 0 draws."""
    model, config = program.model, program.config
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    return np.array(example_masks(key, jnp.arange(config.batch_size), model.num_patches, model.mask_ratio), "f4")


def torch_step(program, params, *, compile_):
    """The same for PyTorch; its first step takes the mask of our first."""
    model, rates, mean_std = program.model, program.config.optimizer, program.objective
    network = TorchCrateMae(model, params, mean_std.mean, mean_std.std)
    decayed = flax.traverse_util.flatten_dict(decay_mask(flax.traverse_util.unflatten_dict(params, sep="/")), sep="/")
    groups = [
        {
            "params": [network.p[name] for name in params if decayed[name] == decays],
            "weight_decay": rates.weight_decay if decays else 0.0,
        }
        for decays in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, rates.learning_rate, (rates.b1, rates.b2), fused=True)
    run = torch.compile(network) if compile_ else network
    pixels = torch.from_numpy(random_batch(model, program.config.batch_size)["image"])
    kept = num_visible(model.num_patches, model.mask_ratio)
    masks = [torch.from_numpy(first_mask(program))]

    def step():
        if masks:
            mask = masks.pop()
        else:
            noise = torch.rand(len(pixels), model.num_patches)
            mask = (noise.argsort(1).argsort(1) >= kept).float()
        optimizer.zero_grad(set_to_none=True)
        loss = run(pixels, mask)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def product_peak(size, rounds=5):
    """FLOP/s of the best f32 matrix product of either framework."""
    a = np.random.default_rng(0).normal(size=(size, size)).astype("f4")
    ours, theirs, product = jnp.asarray(a), torch.from_numpy(a), jax.jit(jnp.matmul)
    best = float("inf")
    for _ in range(rounds):
        for run in (lambda: product(ours, ours).block_until_ready(), lambda: theirs @ theirs):
            begin = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def case(size, mask_mode, batch, arguments):
    """Seconds of each step, in turn.

    Returns:
        A dictionary: the case, `seconds` (name to list), `flops` of a step, `loss` of the first step by name.
    """
    program = build_program(settings(size, mask_mode, batch, arguments.small), 1000)
    ours, params = our_step(program)
    runs = {"ours": ours, "torch": torch_step(program, params, compile_=False)}
    if arguments.compile:
        runs["torch.compile"] = torch_step(program, params, compile_=True)
    loss = {name: run() for name, run in runs.items()}
    for name, value in loss.items():
        if not np.isclose(value, loss["ours"], rtol=1e-4):
            raise SystemExit(f"{name} computes another loss: {loss}")
    seconds = {name: [] for name in runs}
    for turn in range(arguments.rounds + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            if turn:  # the first after compiling still fills caches
                seconds[name].append(time.perf_counter() - begin)
    flops = batch * flops_per_image(program.model)
    return {"size": size, "mask": mask_mode, "batch": batch, "seconds": seconds, "flops": flops, "loss": loss}


def main():
    """The benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("sizes", "tiny,small,base"), ("batches", "8,16"), ("masks", "token,drop")):
        parser.add_argument(f"--{name}", default=default, help="some of them, by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile as well; needs a C++ compiler")
    parser.add_argument("--small", action="store_true", help="a network of seconds instead")
    parser.add_argument("--out", help="numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    peak = product_peak(256 if arguments.small else 2048)
    print(
        f"{torch.get_num_threads()} cores, best matrix product {peak / 1e9:.0f} GFLOP/s; medians of {arguments.rounds}"
    )
    print("size   mask   batch   who            s/step   ours/theirs   GFLOP/s   of peak")
    cases = []
    for size in arguments.sizes.split(","):
        for mask_mode in arguments.masks.split(","):
            for batch in map(int, arguments.batches.split(",")):
                found = case(size, mask_mode, batch, arguments)
                cases.append(found)
                mine = statistics.median(found["seconds"]["ours"])
                for name, seconds in found["seconds"].items():
                    median = statistics.median(seconds)
                    rate = found["flops"] / median
                    print(
                        f"{size:<6} {mask_mode:<6} {batch:5}   {name:<13} {median:7.3f}   {mine / median:11.2f}   "
                        f"{rate / 1e9:7.1f}   {100 * rate / peak:5.0f} %",
                        flush=True,
                    )
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump({"peak_flops": peak, "cores": torch.get_num_threads(), "cases": cases}, file, indent=1)


if __name__ == "__main__":
    main()
