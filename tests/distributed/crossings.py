"""Run as a program with four simulated devices: pairwise crossings of settings, each beside its plain variant.

Prints one JSON object per row: its settings, its losses and gradient norms, and those of the plain variant, which has
float32, one device, unrolled layers, plain XLA and no accumulation. Given numbers of rows, computes these alone.
"""

import json
import os
import sys

from tests.compiling import with_devices

FACTORS = {
    "family": ["crate", "alpha", "tost", "cbsa", "gradient", "vit"],
    "model.mask_mode": ["token", "zero", "drop"],
    "masking.kind": ["random", "block"],
    "model.dtype": ["float32", "bfloat16"],
    "model.scan_layers": [False, True],
    "model.remat": ["none", "names", "full"],
    "model.attention_kernel": ["auto", "recompute", "pallas"],
    "model.product_kernel": ["auto", "pallas"],
    "optimizer.accumulate": [1, 2],
    "optimizer.ema": [None, 0.9],
    "optimizer.name": ["adamw", "lion", "muon", "sgd", "lars"],
    "mesh": ["one", "data 2", "fsdp 2", "tensor 2", "data 2 fsdp 2"],
}
FAMILIES = {
    "crate": {"model.name": "crate_mae_tiny"},
    "alpha": {"model.name": "crate_alpha_mae_small", "model.expansion": 2},
    "tost": {"model.name": "tost_mae_tiny"},
    "cbsa": {"model.name": "cbsa_mae_tiny", "model.pool_size": 2},
    "gradient": {"model.name": "crate_mae_tiny", "model.compression": "gradient", "model.kappa": 0.5},
    "vit": {"model.name": "vit_mae_small", "model.decoder_width": 16, "model.decoder_num_heads": 2},
}
MESHES = {
    "one": {},
    "data 2": {"mesh.data": 2},
    "fsdp 2": {"mesh.data": 1, "mesh.fsdp": 2},
    "tensor 2": {"mesh.data": 1, "mesh.tensor": 2},
    "data 2 fsdp 2": {"mesh.data": 2, "mesh.fsdp": 2},
}
PLAIN = ("family", "model.mask_mode", "masking.kind", "optimizer.name")  # what changes the mathematics
STEPS = 3


def allowed(row):
    """Whether the first len(row) factors go together."""
    chosen = dict(zip(FACTORS, row, strict=False))
    vit, kernel = chosen.get("family") == "vit", chosen.get("model.product_kernel")
    return not (
        (vit and chosen.get("model.mask_mode", "drop") != "drop")
        or (vit and (chosen.get("model.attention_kernel") == "pallas" or (kernel or "auto") != "auto"))
        or (kernel == "pallas" and chosen.get("mesh") == "tensor 2")
    )


def rows():
    """Rows of settings in which every allowed pair of values of two factors occurs."""
    from allpairspy import AllPairs

    return [dict(zip(FACTORS, row, strict=True)) for row in AllPairs(list(FACTORS.values()), filter_func=allowed)]


def settings_of(row):
    """Dotted leaves of a row."""
    leaves = {name: value for name, value in row.items() if "." in name}
    if row["family"] == "vit":
        leaves = {name: value for name, value in leaves.items() if name != "model.product_kernel"}
    return FAMILIES[row["family"]] | leaves | MESHES[row.get("mesh", "one")]


def train(settings, devices):
    """(losses, gradient norms) of a few steps on fixed images."""
    import jax
    import numpy as np

    from crate_jax.config import default_config, override
    from crate_jax.distributed.mesh import make_mesh
    from crate_jax.distributed.sharding import batch_sharding
    from crate_jax.training.program import build_program
    from tests.training.conftest import TINY

    # a threshold at 0 is crossed by rounding: sparsity weights are such that few entries are near it
    more = {"optimizer.warmup_steps": 0, "optimizer.learning_rate": 1e-4, "optimizer.clip_norm": None}
    config = override(default_config(), [*(TINY | more | settings).items()])
    wanted = max(1, config.mesh.data) * config.mesh.fsdp * config.mesh.tensor
    mesh = make_mesh(config.mesh, devices[:wanted])
    program = build_program(config, 1000, mesh=mesh)
    state, found = jax.block_until_ready(program.new_state()), ([], [])
    for number in range(STEPS):
        images = np.random.default_rng(number).integers(0, 256, (16, 28, 28, 1), dtype=np.uint8)
        index = np.arange(16, dtype=np.int32)
        batch = {"image": images, "label": index, "index": index, "epoch": index * 0}
        batch = {key: jax.device_put(value, batch_sharding(mesh)) for key, value in batch.items()}
        state, metrics = jax.block_until_ready(program.step(state, jax.block_until_ready(batch), program.seed))
        found[0].append(float(metrics["loss"]))
        found[1].append(float(metrics["grad_norm"]))
    return found


def main():
    os.environ["XLA_FLAGS"] = with_devices(4)
    import jax

    chosen = rows()
    if len(sys.argv) > 1:
        chosen = [chosen[int(number)] for number in sys.argv[1:]]
    plain = {}
    for row in chosen:
        key = tuple(row[name] for name in PLAIN)
        if key not in plain:
            plain[key] = train(settings_of({name: row[name] for name in PLAIN}) | {"mesh.data": 1}, jax.devices())
        losses, norms = train(settings_of(row), jax.devices())
        print(json.dumps({"row": row, "losses": losses, "norms": norms, "plain": plain[key]}), flush=True)


if __name__ == "__main__":
    main()
