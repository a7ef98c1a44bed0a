"""Every setting with values that make sense and values that do not: a run trains two steps or raises `UserError`.

    python benchmarks/fuzz_settings.py --cases=1000 [--seed=0] [--first=0] [--check_only]

A case sets one to four leaves of a tiny pre-training. Allowed outcomes: it trains; it is refused before its workdir is
made; its loss is not finite (a learning rate of 1000 is legal). Anything else is printed with the flags that reproduce
it and makes the exit code 1. With --check_only nothing is compiled: the config is checked and the program is put
together, 20 times faster.
"""

import argparse
import collections
import logging
import pathlib
import random
import sys
import tempfile

from crate_jax.config import load_config, shown
from crate_jax.config_schema import LEAVES
from crate_jax.errors import UserError

TINY = {
    "total_steps": 2, "batch_size": 4, "measure_every_steps": 0, "optimizer.warmup_steps": 1, "model.width": 16,
    "model.num_heads": 2, "model.depth": 1, "model.decoder_depth": 1, "model.patch_size": 7,
    "data.train_split": "train[:64]", "data.validation_split": "test[:32]", "data.num_workers": 0,
}  # fmt: skip
SMALL = {  # small valid values, where the schema's range would make a case large, slow or something else altogether
    "model.name": ["crate_mae_tiny", "vit_mae_small", "tost_mae_tiny", "cbsa_mae_tiny", "crate_alpha_mae_small",
                   "crate_classifier_tiny", "nope"],
    "model.image_size": [7, 14, 21, 28, 29, (14, 28), (28, 7), (15, 28)], "model.patch_size": [1, 2, 7, 14, 28],
    "model.width": [4, 8, 16, 18, 20],
    "model.decoder_width": [None, 8, 16, 20], "model.num_heads": [1, 2, 3, 4],
    "model.decoder_num_heads": [None, 1, 2, 3],
    "model.depth": [1, 2, 3], "model.decoder_depth": [0, 1, 2], "model.table_image_size": [None, 7, 14, 15, 56],
    "model.num_classes": [None, 2, 10], "batch_size": [1, 2, 3, 4, 8], "total_steps": [None, 1, 2, 3],
    "total_epochs": [None, 0.01, 0.1], "measure_every_steps": [0, 1, 2], "measure_images": [1, 2, 100],
    "evaluate_every_steps": [0], "profile_at_step": [None],
    "data.name": ["embedded_digits", "image_folder", "nope", "../x"], "data.data_dir": [None, "/nowhere"],
    "data.train_split": ["train[:64]", "test[:16]", "nope", "train[", "train[5:2]"],
    "data.validation_split": ["test[:32]", "train[:8]", "nope"], "data.show_split": [None, "nope"],
    "data.resize": [None, 28, 32, 8], "data.randaugment": [0, 1, 3], "data.num_workers": [None, 0, 1],
    "data.worker_processes": [None, False], "data.prefetch": [1, 2, 3], "data.max_corrupt_fraction": [0, 0.1, 1],
    "optimizer.warmup_steps": [None, 0, 1, 5], "optimizer.accumulate": [1, 2, 3, 4],
    "model.pool_size": [None, 1, 2, 8], "model.expansion": [None, 1, 2], "model.sparsification_steps": [None, 1, 2],
    "masking.ratio": [None, (0.25, 0.75), (0.5, 0.5), (0.01, 0.99)], "masking.ratio_levels": [2, 3],
    "finetune.source": [None, "x"], "finetune.identity": [None, "x"],
    "checkpoint.every_steps": [1, 2, 1000], "checkpoint.keep": [1, 2], "checkpoint.keep_every_steps": [None, 1, 2],
    "mesh.data": [-1, 0, 1, 2], "mesh.fsdp": [-1, 0, 1, 2], "mesh.tensor": [-1, 0, 1, 2], "mesh.dcn_data": [1, 2],
    "mesh.rules": [(), (("embed", None),), (("embed", "tensor"), ("heads", "tensor")), (("embed", ("fsdp", "fsdp")),),
                   ("embed",), (5,), ((["a"], "data"),), (("embed", "nope"),), (("nope", "data"),), (("embed", ()),)],
    "distributed.stall_seconds": [0, 1800], "distributed.lost_host_seconds": [100],
    "distributed.join_seconds": [300],
}  # fmt: skip
NONSENSE = [
    None, True, "", " ", "nan", "inf", "1e999", "-1", "0", "2", "é", "(", "[]", "()", "(1,)", "('a',)", "{}", "1,2,3,4",
    -1, 0, 1, 2**31, 2**32, 2**63, 10**400, 0.5, 1.0, -0.0, 1e-300, float("nan"), float("inf"), (), (1,), ("a", "b"),
    (0.0, 0.0, 0.0), (1.0, 0.2), [None], {"a": 1}, b"x", "x" * 5000, "9" * 5000, "(" * 500,
]  # fmt: skip


def sensible(random, name):
    """A small value within a leaf's range, its ends among them."""
    leaf = LEAVES[name]
    if name in SMALL:
        return random.choice(SMALL[name])
    if leaf.choices or leaf.type is bool:
        return random.choice((*(leaf.choices or (True, False)), leaf.default))
    if leaf.items is float:
        return tuple(sorted(_number(random, leaf) for _ in range(random.choice(leaf.length))))
    return _number(random, leaf) if leaf.type in (int, float) else leaf.default


def _number(random, leaf):
    low, high = (
        (end if end is not None else other) for end, other in ((leaf.low, leaf.above), (leaf.high, leaf.below))
    )
    high = low + 7 if high is None else high
    if leaf.type is int:
        return random.choice((low, low + 1, min(low + 7, high), high))
    return random.choice((low, high, (low + high) / 2, low + min(1.0, high - low) / 8))


def make_case(random):
    """A dictionary from dotted leaf to value."""
    names = random.sample(sorted(LEAVES), random.choice((1, 1, 2, 3, 4)))
    return {n: random.choice(NONSENSE) if random.random() < 0.3 else sensible(random, n) for n in names}


def check(case):
    """Loads the config and puts the program together; nothing is compiled.

    Raises:
        UserError: the case is refused.
    """
    from crate_jax.training.preflight import check_splits
    from crate_jax.training.program import build_program

    config = load_config("quickstart_digits", [*TINY.items(), *case.items()])
    check_splits(config)
    build_program(config, 64)


def train(case, workdir):
    """Trains."""
    from crate_jax import pretrain

    pretrain(load_config("quickstart_digits", [*TINY.items(), *case.items()]), str(workdir))


def outcome_of(case, check_only):
    """One word, and the sentence or exception behind it; capitals are a fault."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "run"
        try:
            check(case) if check_only else train(case, workdir)
        except UserError as error:
            if "not finite" in str(error):
                return "not finite", str(error)
            if "\n" in str(error) or len(str(error)) > 1000:
                return "LONG", str(error)
            return ("LATE" if (workdir / "config.json").exists() else "refused"), str(error)
        except Exception as error:
            return "TRACEBACK", f"{type(error).__name__}: {error}"
        return "passed" if check_only else "trained", ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to run in pieces")
    parser.add_argument("--check_only", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    counts = collections.Counter()
    for number in range(arguments.first, arguments.first + arguments.cases):
        case = make_case(random.Random(f"{arguments.seed}-{number}"))
        kind, said = outcome_of(case, arguments.check_only)
        counts[kind] += 1
        if kind.isupper():
            print(
                f"{kind} case {number}: {' '.join(f'{n}={shown(v)}' for n, v in case.items())}\n    {said[:300]}",
                flush=True,
            )
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    return any(kind.isupper() for kind in counts)


if __name__ == "__main__":
    sys.exit(main())
