"""Step time and memory of the compression operators against the number of tokens N: is TSSA linear, is CBSA, MSSA not?

    python benchmarks/long_sequences.py                         # a few minutes
    python benchmarks/long_sequences.py --tokens=256,1024 --rounds=2

Forward and backward pass of one operator on the codes of one image (width 192, 3 subspaces, float32, 64
representatives), in turn, medians; memory is what XLA's memory analysis calls temporaries. The exponent is the slope of
log(seconds) against log(N).
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.operators.contract_broadcast import contract_broadcast_attention
from crate_jax.operators.subspace_attention import recomputed_self_attention
from crate_jax.operators.token_statistics import token_statistics_attention

HEADS, SIZE = 3, 64
ONES = jnp.ones(HEADS)
OPERATORS = {  # name: (operator, most tokens)
    "tssa": (lambda codes: token_statistics_attention(codes, ONES), 2**20),
    "cbsa": (
        lambda codes: contract_broadcast_attention(
            codes, None, step_tokens_K=ONES, step_representatives_K=ONES, class_token="none"
        ),
        2**20,
    ),
    "mssa": (lambda codes: recomputed_self_attention(codes, SIZE**-0.5), 4096),
}


def compiled(operator, tokens):
    """(the compiled gradient, its argument)."""
    codes = jnp.asarray(np.random.default_rng(0).normal(size=(1, tokens, HEADS, SIZE)), jnp.float32)
    step = jax.jit(jax.value_and_grad(lambda codes: jnp.sum(jnp.sin(operator(codes)))))
    return step.lower(codes).compile(), codes


def main():
    """The benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="256,512,1024,2048,4096,8192,16384")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.tokens.split(",")]
    print("| operator | " + " | ".join(f"{size:,}" for size in sizes) + " | exponent |")
    print("|---|" + "---|" * (len(sizes) + 1))
    for name, (operator, most) in OPERATORS.items():
        steps = {size: compiled(operator, size) for size in sizes if size <= most}
        seconds = {size: [] for size in steps}
        for _ in range(arguments.rounds):
            for size, (step, codes) in steps.items():
                jax.block_until_ready(step(codes))  # the step before was another one
                begin = time.perf_counter()
                jax.block_until_ready(step(codes))
                seconds[size].append(time.perf_counter() - begin)
        median = {size: statistics.median(times) for size, times in seconds.items()}
        memory = {size: step.memory_analysis().temp_size_in_bytes for size, (step, _) in steps.items()}
        for what, found, unit in (("ms", median, 1e3), ("MiB", memory, 2.0**-20)):
            slope = np.polyfit(np.log(list(found)), np.log(np.maximum(list(found.values()), 1e-9)), 1)[0]
            cells = [f"{found[size] * unit:.2f}" if size in found else "" for size in sizes]
            print(f"| {name}, {what} | " + " | ".join(cells) + f" | {slope:.2f} |", flush=True)


if __name__ == "__main__":
    main()
