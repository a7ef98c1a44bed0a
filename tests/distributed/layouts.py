"""Run as a program with eight simulated devices: the same few steps on several meshes, and what came out.

Prints one JSON object: layout to losses, parameters (their sum, and their sum of squares), and what the program says.
"""

import json
import math
import os
import sys

from tests.compiling import with_devices

LAYOUTS = {
    "one": (1, {}),
    "data 8": (8, {}),
    "data 2 fsdp 2 tensor 2": (8, {"mesh.fsdp": 2, "mesh.tensor": 2}),
    "fsdp 2 tensor 2, scanned": (4, {"mesh.fsdp": 2, "mesh.tensor": 2, "mesh.data": 1, "model.scan_layers": True}),
}
SHARDED_ONLY = {  # not trained
    "fsdp 4": (4, {"mesh.fsdp": 4, "mesh.data": 1}),
    "other rules": (2, {"mesh.fsdp": 2, "mesh.data": 1, "mesh.rules": (("embed", None), ("atoms", "fsdp"))}),
}
STEPS = 8


def work_of_a_shard(mesh):
    """Collectives in programs that every device can run on its own part of a batch."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from crate_jax.distributed.sharding import RULES, batch_sharding
    from crate_jax.operators.coding_rate import coding_rate_gradient
    from crate_jax.training.step import micro_batches

    def slope(codes):
        return jax.grad(lambda codes: jnp.sum(jnp.sin(coding_rate_gradient(codes).astype(jnp.float32))))(codes)

    def parts(images):
        with nn.logical_axis_rules(RULES), jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return micro_batches(images, 2)

    found = {}
    for function, shape in ((slope, (16, 20, 2, 12)), (parts, (16, 4, 4, 1))):
        array = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=batch_sharding(mesh))
        text = jax.jit(function).lower(array).compile().as_text()
        kinds = ("all-gather", "all-reduce", "all-to-all", "collective-permute")
        found[function.__name__] = [kind for kind in kinds if kind in text]
    return found


def main():
    os.environ["XLA_FLAGS"] = with_devices(8)
    import jax
    import numpy as np

    from crate_jax.config import default_config, override
    from crate_jax.distributed.mesh import make_mesh
    from crate_jax.distributed.sharding import batch_sharding
    from crate_jax.training.program import build_program
    from tests.training.conftest import TINY

    rng = np.random.default_rng(0)
    told = {}
    for name, (count, settings) in (LAYOUTS | SHARDED_ONLY).items():
        more = {"total_steps": STEPS, "model.width": 32, "model.num_heads": 4, "optimizer.ema": 0.9, "model.depth": 1}
        config = override(default_config(), [*(TINY | more | settings).items()])
        mesh = make_mesh(config.mesh, jax.devices()[:count])
        program = build_program(config, 1000, mesh=mesh)
        biggest_share = max(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) / leaf.size
            for leaf in jax.tree.leaves(program.abstract.params)
            if leaf.ndim == 3
        )
        if name in SHARDED_ONLY:
            told[name] = {"biggest_share": biggest_share}
            continue
        state, losses, step = jax.block_until_ready(program.new_state()), [], None
        for number in range(STEPS):
            if name == "one":
                told.setdefault("batches", []).append(
                    rng.integers(0, 256, (config.batch_size, 28, 28, 1), dtype=np.uint8)
                )
            index = np.arange(config.batch_size, dtype=np.int32)
            batch = {"image": told["batches"][number], "label": index, "index": index + number, "epoch": index * 0}
            batch = {key: jax.device_put(value, batch_sharding(mesh)) for key, value in batch.items()}
            jax.block_until_ready(
                batch
            )  # simulated devices: one program at a time, or they wait for each other for ever
            if step is None:
                lowered = program.step.lower(state, batch, program.seed)
                step = lowered.compile()
            state, metrics = jax.block_until_ready(step(state, batch, program.seed))
            losses.append(float(metrics["loss"]))
        means = [np.asarray(x, np.float64) for x in jax.tree.leaves((state.params, state.ema))]
        told[name] = {
            "losses": losses,
            "params": np.concatenate([mean.ravel() for mean in means]).tolist(),
            "constraints": lowered.as_text().count("sharding_constraint"),
            "heads": sum(
                '"tensor"' in line and "sharding_constraint" in line for line in lowered.as_text().split("\n")
            ),
            "collectives": step.as_text().count("all-gather") + step.as_text().count("all-reduce"),
            "biggest_share": biggest_share,
        }
    del told["batches"]
    told["alone"] = work_of_a_shard(make_mesh(override(default_config(), [("mesh.fsdp", 2)]).mesh))
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
