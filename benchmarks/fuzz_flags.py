"""Every flag of every command with values that make no sense: one line and exit code 1, or the computation is reached.

    python benchmarks/fuzz_flags.py [COMMAND ...] [--show]

Nothing is computed: what would be is replaced by `Reached`. Any other outcome (an exception, more than one line,
another exit code, a file in the current folder after a refusal) is printed and makes the exit code 1. With --show each
value that was accepted is listed, for a person to look at.
"""

import argparse
import collections
import contextlib
import importlib
import io
import os
import pathlib
import sys
import tempfile
from unittest import mock

from crate_jax.cli.main import COMMANDS, main

SUBJECT = ["--checkpoint=photographs", "--config=quickstart", "--out=out"]
VALID = {  # a command line that computes
    "pretrain": ["--config=quickstart_digits", "--workdir=run"],
    "features": [*SUBJECT, "--split=test", "--out=f.npz"],
    "export": [*SUBJECT, "--to=stablehlo", "--out=encoder"],
    "finetune": ["--checkpoint=photographs", "--config=finetune", "--config.data.name=embedded_digits", "--out=out"],
    "compare": ["run", "--out=out"],
    "convert": ["--to=flax", "photographs", "out"],
    "compile": ["--config=quickstart", "--topology=v5e:2x2"],
    "data": ["--config=quickstart_digits", "--out=out", "--seconds=0"],
    "inspect": ["--model=crate_mae_tiny", "--no-batch"],
    "sweep": ["--config=crate_vs_vit", "--workdir=sweep"],
}
REPLACED = (  # by what computes or writes: module, name
    ("training.pretraining", "run_training"), ("evaluation.finetune", "run_training"), ("sweeps.run", "_run_all"),
    ("evaluation.feature_store", "_extract"), ("evaluation.knn", "image_features"),
    ("evaluation.probe", "image_features"), ("evaluation.reconstruct", "split_images"),
    ("evaluation.reconstruct", "measured"), ("evaluation.attentive", "split_batches"),
    ("analysis.analyze", "study"), ("analysis.analyze", "split_images"), ("analysis.segmentation", "composites"),
    ("analysis.demo", "Exhibit"), ("evaluation.export", "several_features"), ("planning.ahead_of_time", "plan"),
    ("data.preview", "augmentation_grid"), ("interop.checkpoint_file", "write_safetensors"),
    ("interop.export", "write_torch"), ("interop.export", "write_safetensors"),
)  # fmt: skip
VALUES = [
    "", " ", "nan", "-1", "0", "2", "1e999", "é漢", "a\0b", "\udce9", "x" * 600, "../..", "~nobody/x", "gs:/b/x",
    "http://x/y", "None", "[]", "a,b", ",", "%s%n{}", "$HOME", "--config", "/dev/null", "/dev/null/x", ".", "nope@last",
    "mean@encoder_99", "mean@last", "train[", "train", "raw", "paper,ours", "1,1", "5,0", "²", "sweep", ":",
    "quickstart:x", "v5e:0x0", "v5e:-1x2", "v9:2x2", "v5e-7",
]  # fmt: skip


class Reached(BaseException):
    """The command would compute now."""


def lines_of(command, values=VALUES):
    """Command lines of a command, (flag, value, words), a flag with one of the values in each."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"crate_jax.cli.{command}").add_arguments(parser)
    valid = VALID.get(command, SUBJECT)
    positional = [word for word in valid if not word.startswith("-")]
    for action in parser._actions:
        if action.dest == "help" or action.nargs == 0:
            continue
        for value in values:
            if action.option_strings:
                kept = [
                    word for word in valid if action.dest != "workdir" or not word.startswith(("--ch", "--config="))
                ]
                words = [*(kept if "--out=out" in kept else valid), f"{action.option_strings[0]}={value}"]
            else:
                place = [one.dest for one in parser._actions if not one.option_strings].index(action.dest)
                words = [*valid, "--"] if value.startswith("-") else list(valid)
                words[valid.index(positional[place])] = value
            yield action.dest, value, [command, *words]


def outcome_of(words):
    """(what happened, what was said); capitals are a fault."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(words)
        except Reached:
            return "reached", ""
        except BaseException as error:
            return "TRACEBACK", f"{type(error).__name__}: {error}"
    lines = [line for line in said.getvalue().splitlines() if line.startswith("crate-jax: ")]
    if code == 0:
        return "done", ""
    if code != 1 or len(lines) != 1 or said.getvalue().strip().splitlines()[-1] != lines[0]:
        return "UNCLEAR", f"exit code {code}: {said.getvalue()[-500:]}"
    return ("LONG" if len(lines[0]) > 6000 else "refused"), lines[0]


def run(commands, values=VALUES):
    """Yields (command, flag, value, outcome, what was said), each in a folder of its own."""

    def reach(*_, **__):
        raise Reached

    with contextlib.ExitStack() as stack:
        for module, name in REPLACED:
            stack.enter_context(mock.patch(f"crate_jax.{module}.{name}", reach))
        for command in commands:
            for flag, value, words in lines_of(command, values):
                with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                    kind, said = outcome_of(words)
                    left = sorted(path.name for path in pathlib.Path(folder).iterdir())
                    if kind == "refused" and left:
                        kind, said = "LEFT", f"{left}: {said}"
                yield command, flag, value, kind, said


def shown():
    """Runs them all; the number of faults."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("commands", nargs="*", default=list(COMMANDS))
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    counts = collections.Counter()
    for command, flag, value, kind, said in run(arguments.commands):
        counts[kind] += 1
        if kind.isupper() or (arguments.show and kind != "refused"):
            print(f"{kind} {command} {flag}={value[:60]!r} {said[-400:]}", flush=True)
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    return sum(count for kind, count in counts.items() if kind.isupper())


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(min(shown(), 1))
