"""Subspace self-attention alone on an NVIDIA GPU: plain XLA, recomputed, cuDNN's flash attention, a Pallas kernel.

    python benchmarks/gpu_attention.py [--tokens=17,50,65,101,145,197,785] [--images=128] [--heads=12] [--head_size=64]

Forward and backward pass of softmax(scale w w^T) w in bfloat16, ten in one program so that starting them does not
count; medians of 20, in turn. `--images` have 197 tokens; where there are fewer tokens there are more images, so that
their product is about the same. Pallas is jax's own Triton kernel (`jax.experimental.pallas.ops.gpu.attention`), for
which tokens are padded to whole blocks and masked by segments; PyTorch is `scaled_dot_product_attention`. Temporaries
are XLA's account of one program; "difference" is the relative distance from plain XLA's values and gradients.
"""

import argparse
import functools
import importlib.util
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.operators.subspace_attention import attend, cudnn_self_attention, split_heads

REPEATS = 10


def cudnn_attention(codes_BxNxKP, *, num_heads, scale):
    """cuDNN for any number of tokens."""
    return cudnn_self_attention(split_heads(codes_BxNxKP, num_heads), scale).reshape(codes_BxNxKP.shape)


def pallas_attention(codes_BxNxKP, *, num_heads, scale):
    """jax's Triton kernel on whole blocks of 64 tokens; the padding is another segment."""
    from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha

    images, tokens, width = codes_BxNxKP.shape
    block = min(64, 1 << (tokens - 1).bit_length())
    more = -tokens % block
    codes = jnp.pad(codes_BxNxKP, ((0, 0), (0, more), (0, 0))).reshape(images, tokens + more, num_heads, -1)
    segment = jnp.broadcast_to(jnp.arange(tokens + more) >= tokens, (images, tokens + more)).astype(jnp.int32)
    sizes = BlockSizes(*[block] * 2, *[min(32, block)] * 4)
    moved = mha(codes, codes, codes, segment, sm_scale=scale, block_sizes=sizes)
    return moved[:, :tokens].reshape(images, tokens, width)


def repeated(attention):
    """Forward and backward pass, REPEATS times, each on what the last gave."""

    def once(codes, _):
        moved, back = jax.vjp(attention, codes)
        return (codes + 1e-3 * back(moved)[0]).astype(codes.dtype), None

    return lambda codes: jax.lax.scan(once, codes, length=REPEATS)[0]


def torch_run(codes_BxNxKP, num_heads, scale):
    """A function that does the same in PyTorch and waits."""
    import torch

    images, tokens, _ = codes_BxNxKP.shape
    gpu = torch.cuda.is_available()
    heads = torch.from_numpy(np.array(codes_BxNxKP, "f4")).to("cuda" if gpu else "cpu", torch.bfloat16)
    heads = heads.reshape(images, tokens, num_heads, -1).transpose(1, 2).contiguous().requires_grad_()

    def run():
        for _ in range(REPEATS):
            moved = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, scale=scale)
            torch.autograd.grad(moved, heads, moved)
        if gpu:
            torch.cuda.synchronize()

    return run


def contenders(codes_BxNxKP, num_heads, scale):
    """Name to (a function that computes and waits, MiB of temporaries or None, relative error of one pass)."""
    found, exact = {}, None
    options = {name: functools.partial(attend, kernel=name) for name in ("xla", "recompute")}
    for name, attention in {**options, "cudnn": cudnn_attention, "pallas (Triton)": pallas_attention}.items():
        run = functools.partial(attention, num_heads=num_heads, scale=scale)
        try:
            program = jax.jit(repeated(run)).lower(codes_BxNxKP).compile()
            moved, back = jax.jit(lambda codes, run=run: (run(codes), jax.vjp(run, codes)[1](codes)[0]))(codes_BxNxKP)
        except Exception as error:  # a kernel that does not compile is a row of the table
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:150]}")
            continue
        both = np.concatenate([np.asarray(moved, "f4"), np.asarray(back, "f4")])
        exact = both if exact is None else exact
        temporaries = program.memory_analysis().temp_size_in_bytes / 2**20
        found[name] = (
            lambda program=program: program(codes_BxNxKP).block_until_ready(),
            temporaries,
            np.linalg.norm(both - exact) / np.linalg.norm(exact),
        )
    if importlib.util.find_spec("torch"):
        found["PyTorch"] = (torch_run(codes_BxNxKP, num_heads, scale), None, None)
    return found


def main():
    """The benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="17,50,65,101,145,197,785")
    for name, default in (("images", 128), ("heads", 12), ("head_size", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}: forward and backward pass, bfloat16")
    print("tokens images   kernel              ms   of xla   temporaries, MiB   difference")
    for tokens in map(int, arguments.tokens.split(",")):
        images = max(1, arguments.images * 197 // tokens)
        shape = (images, tokens, arguments.heads * arguments.head_size)
        codes = jax.random.normal(jax.random.key(0), shape).astype(jnp.bfloat16)
        running = contenders(codes, arguments.heads, arguments.head_size**-0.5)
        seconds = {name: [] for name in running}
        for turn in range(22):
            for name, (run, *_) in running.items():
                begin = time.perf_counter()
                run()
                if turn > 1:
                    seconds[name].append((time.perf_counter() - begin) / REPEATS)
        median = {name: statistics.median(taken) for name, taken in seconds.items()}
        for name, (_, temporaries, difference) in running.items():
            memory, apart = ("" if x is None else f"{x:.3g}" for x in (temporaries, difference))
            print(
                f"{tokens:6} {images:6}   {name:<15} {1000 * median[name]:6.3f}   {median[name] / median['xla']:6.2f}"
                f"   {memory:>16}   {apart:>10}",
                flush=True,
            )


if __name__ == "__main__":
    main()
