"""`crate-jax COMMAND ...`: finds the command's file, and turns a `UserError` into one line and exit code 1."""

import argparse
import errno
import importlib
import logging
import sys

from crate_jax.distributed.quiet import quiet_libraries
from crate_jax.errors import UserError, nearest

COMMANDS = {
    "pretrain": "train a masked autoencoder; run again with the same workdir, it goes on where it stopped",
    "reconstruct": "complete masked images with a pre-trained network: figures and errors",
    "probe": "what its frozen features are worth to a linear classifier",
    "knn": "what they are worth to a nearest-neighbour classifier",
    "finetune": "train a classifier on top of it, or from scratch",
    "features": "write features and labels to an .npz file",
    "analyze": "measure every layer and decide which claims of the theory hold: report.html",
    "demo": "a page on which a masked picture is completed and every layer can be looked into",
    "compare": "one table and one figure of several runs",
    "convert": "official PyTorch checkpoints in and out",
    "compile": "compile the train step for a TPU pod without one: memory, FLOPs, collectives",
    "data": "source, counts, a picture of augmented examples, images a second",
    "inspect": "a config or a network: parameters, shardings, FLOPs, one batch as a picture",
    "sweep": "run or emit every point of a sweep",
}


class _Parser(argparse.ArgumentParser):
    """Tells a wrong flag as any other mistake: one line, exit code 1 instead of argparse's 2."""

    def error(self, message):
        raise UserError(f"{self.prog.partition(' ')[2]}: {message}; {self.prog} --help lists the flags.")


def split_overrides(arguments):
    """Takes `--config.a.b=v` (or `--config.a.b v`) out of a command line.

    Returns:
        (what is left, [(dotted leaf, text), ...]).

    Raises:
        UserError: an override without a value.
    """
    rest, overrides, waiting = [], [], None
    for word in arguments:
        if waiting is not None:
            overrides.append((waiting, word))
            waiting = None
        elif word.startswith("--config."):
            name, equals, value = word[len("--config.") :].partition("=")
            if equals:
                overrides.append((name, value))
            else:
                waiting = name
        else:
            rest.append(word)
    if waiting is not None:
        raise UserError(f"--config.{waiting} has no value; write --config.{waiting}=VALUE.")
    return rest, overrides


def usage():
    """The text of `crate-jax --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    first = "usage: crate-jax COMMAND [--config=FILE] [--workdir=FOLDER] [--config.a.b=VALUE ...]"
    return "\n".join([first, "", *lines, "", "crate-jax COMMAND --help says more."])


def run(arguments):
    """Runs a command line, with its errors as exceptions.

    Returns:
        The exit code.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    command, *arguments = arguments
    if command in ("--version", "version"):
        import crate_jax

        print(f"crate_jax {crate_jax.__version__}")
        return 0
    if command not in COMMANDS:
        raise UserError(f"there is no command {command!r}{nearest(command, COMMANDS)}")
    module = importlib.import_module(f"crate_jax.cli.{command}")
    parser = _Parser(
        prog=f"crate-jax {command}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    rest, overrides = split_overrides(arguments)
    parsed = parser.parse_args(rest)
    parsed.overrides = overrides
    return module.run(parsed) or 0


def main(arguments=None):
    """The console command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    quiet_libraries()
    try:
        return run(sys.argv[1:] if arguments is None else list(arguments))
    except UserError as error:
        print(f"crate-jax: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"crate-jax: the disk is full: {error}; free space there, and run the same command again.", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print("crate-jax: interrupted", file=sys.stderr)
        return 130
