"""The program: `crate-jax COMMAND ...` and `python -m crate_jax COMMAND ...`."""

import sys

from crate_jax.cli.main import main
from crate_jax.distributed.chips import chips
from crate_jax.distributed.host_memory import start_again_with_large_pages

COMPUTES = {"pretrain", "finetune", "probe", "knn", "features", "reconstruct", "analyze"}


def program():
    """The console command: `cli.main.main`, with memory as XLA on a CPU needs it."""
    if COMPUTES & set(sys.argv[1:2]) and chips()[0] == "cpu":
        start_again_with_large_pages()
    return main()


if __name__ == "__main__":
    sys.exit(program())
