"""What a layer moves across HBM on a TPU that is not there, beside a count by hand, as Markdown.

    python benchmarks/layer_traffic.py                                    # base, 64 images of 197 tokens, v5e
    python benchmarks/layer_traffic.py --layers=tost --kernels=xla --tokens=50
    python benchmarks/layer_traffic.py --layers=tost --operations=15      # what moves most, by operation

Forward and backward pass of `--depth` encoder layers, compiled for one chip as one program; what crosses HBM is read
from its text (`memory_traffic.py`) and divided by the depth. "xla" computes the scores of MSSA again in the backward
pass, as `auto` does on a TPU. Embedding, loss, optimiser and collectives are not part of it.

By hand: each step of a layer reads its arguments and writes its results once in each pass. With t the bytes of the
tokens in bf16 and m those of a D x D matrix in float32,

    mssa, tssa, cbsa    forward  z in; codes, z+ out           backward  z, codes, g in; dz out            7 t + 6 m
    ista                forward  z in; error, z+ out           backward  z, error, z+, g in; dz out        8 t + 3 m
    overcomplete        forward  z in; error, a1, a2, z+ out   backward  z, error, a1, a2, g in; dz out   23 t + 24 m

where a matrix is read in each pass and its gradient written: 3 m. Codes of four times the width take 4 t; a kernel that
computed a1 and a2 again, two products more than the twelve, would move 7 t + 24 m. Less is possible: activations that
the compiler keeps in VMEM from one operation to the next cross nothing.
"""

import argparse
import dataclasses
import math

from memory_traffic import memory_bytes, transfers

GIB, MIB = 2.0**30, 2.0**20
WIDTH, HEADS = 768, 12
LAYERS = {  # name: settings, tokens' and matrices' sizes that cross by hand
    "crate": ({}, (15, 9)),
    "alpha": ({"sparsification": "overcomplete", "sparsification_residual": True, "output_bias": False}, (30, 30)),
    "tost": ({"compression": "tssa", "layer_scale": 1.0}, (15, 9)),
    "cbsa": ({"compression": "cbsa"}, (15, 9)),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer: bytes that cross HBM, by hand, seconds of its products at peak, and the program's text."""

    crossing: float
    by_hand: float
    seconds: float
    text: str


def measured(name, kernel, images, tokens, depth, topology):
    """The `Row` of a layer; `kernel` is "xla" or "pallas"."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from crate_jax.config import default_config
    from crate_jax.distributed.mesh import make_mesh
    from crate_jax.distributed.sharding import RULES
    from crate_jax.models.layers.crate import EncoderLayer, cost
    from crate_jax.models.layers.settings import LayerSettings
    from crate_jax.planning.ahead_of_time import topology_devices

    options, (of_tokens, of_matrices) = LAYERS[name]
    attention = "recompute" if kernel == "xla" else kernel
    settings = LayerSettings(**options, attention_kernel=attention, product_kernel=kernel)
    side = math.isqrt(tokens - 1)
    layer = EncoderLayer(settings, HEADS, grid=(side, side) if side * side == tokens - 1 and side > 8 else None)
    mesh = make_mesh(default_config().mesh, list(topology_devices(topology))[:1])
    where = NamedSharding(mesh, PartitionSpec())

    def placed(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    def gradients(params, z_BxNxD, cotangent_BxNxD):
        def run(params, z_BxNxD):
            for one in params:
                z_BxNxD = layer.apply(one, z_BxNxD)
            return z_BxNxD

        with nn.logical_axis_rules(RULES), jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            out_BxNxD, pull = jax.vjp(run, params, z_BxNxD)
            return out_BxNxD, pull(cotangent_BxNxD)

    z = placed(jax.ShapeDtypeStruct((images, tokens, WIDTH), jnp.bfloat16))
    params = jax.tree.map(placed, nn.meta.unbox(jax.eval_shape(layer.init, jax.random.key(0), z)))
    text = jax.jit(gradients).lower([params] * depth, z, z).compile().as_text()
    work = cost(settings, HEADS, WIDTH, tokens)
    flops = images * (3 * work.linear + work.attention_training * work.attention)
    by_hand = of_tokens * images * tokens * WIDTH * 2 + of_matrices * 4 * WIDTH**2
    return Row(memory_bytes(text)[2] / depth, by_hand, flops / topology.chip.flops, text)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default=",".join(LAYERS))
    parser.add_argument("--kernels", default="xla,pallas")
    parser.add_argument("--images", type=int, default=64, help="of one chip")
    parser.add_argument("--tokens", type=int, default=197, help="per image; 50: visible ones alone")
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--operations", type=int, default=0, help="so many that move most, of the whole program")
    arguments = parser.parse_args()
    from crate_jax.planning.ahead_of_time import prepare_environment
    from crate_jax.planning.chips import find_topology

    prepare_environment()
    topology = find_topology(arguments.topology)
    print("| layer | kernels | across HBM, GiB | by hand, GiB | ratio | HBM, ms | products, ms |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.layers.split(","):
        for kernel in arguments.kernels.split(","):
            row = measured(name, kernel, arguments.images, arguments.tokens, arguments.depth, topology)
            print(
                f"| {name} | {kernel} | {row.crossing / GIB:.3f} | {row.by_hand / GIB:.3f} | "
                f"{row.crossing / row.by_hand:.2f} | {1e3 * row.crossing / topology.chip.hbm_bandwidth:.2f} | "
                f"{1e3 * row.seconds:.2f} |",
                flush=True,
            )
            for one in sorted(transfers(row.text), key=lambda one: -one.crossing)[: arguments.operations]:
                print(f"    {one.crossing / MIB:8.1f} MiB  {one.what}")


if __name__ == "__main__":
    main()
