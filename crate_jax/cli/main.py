"""`crate-jax COMMAND ...`: finds the command's file, and turns a `UserError` into one line and exit code 1."""

import argparse
import contextlib
import importlib
import logging
import os
import sys

from crate_jax.distributed.quiet import quiet_libraries
from crate_jax.errors import UserError, first_line, nearest

COMMANDS = {
    "pretrain": "train a masked autoencoder; run again with the same workdir to resume",
    "reconstruct": "complete masked images with a pre-trained network: figures and errors",
    "probe": "what its frozen features are worth to a linear classifier",
    "knn": "what they are worth to a nearest-neighbour classifier",
    "finetune": "train a classifier on top of it, or from scratch",
    "features": "write features and labels to an .npz file",
    "analyze": "measure every layer and decide which claims of the theory hold: report.html",
    "demo": "a page on which a masked picture is completed and every layer can be looked into",
    "segment": "foreground masks that nobody trained, on images whose masks are exact",
    "compare": "one table and one figure of several runs",
    "convert": "official PyTorch checkpoints in and out",
    "export": "the encoder as a program for serving (StableHLO, SavedModel): pixels in, features out",
    "compile": "compile the train step for a TPU pod without one: memory, FLOPs, collectives",
    "data": "source, counts, a picture of augmented examples, images per second",
    "inspect": "a config or a network: parameters, shardings, FLOPs, one batch as a picture",
    "sweep": "run or emit every point of a sweep",
}


OF_RUN = "--config.NAME=VALUE replaces a setting of the run, such as --config.data.validation_split=test[:100]."
SETTINGS = dict.fromkeys(("reconstruct", "probe", "knn", "features", "analyze"), OF_RUN)
TRAINS = {"pretrain", "finetune"}
COMPUTES = TRAINS | {"probe", "knn", "features", "reconstruct", "analyze"}  # on all hosts together
INTO_WORKDIR = COMPUTES | {"segment"}  # where there is no --out
PATHS = ("workdir", "out", "checkpoint", "baseline", "source", "target")


class _Help(argparse.RawDescriptionHelpFormatter):
    """The description as it is written, and each flag's default."""

    def _get_help_string(self, action):
        shown = action.default in (None, False, argparse.SUPPRESS) or "default" in action.help
        return action.help if shown else f"{action.help} (default: %(default)s)"


class _Parser(argparse.ArgumentParser):
    """Reports a wrong flag as any other mistake: one line, exit code 1 instead of argparse's 2."""

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


def run(arguments, signals=None):
    """Runs a command line, with its errors as exceptions.

    Args:
        arguments: words.
        signals: the program's `distributed.signals.ProgramSignals`.

    Returns:
        The exit code.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    _check_here()
    command, *arguments = arguments
    if command in ("--version", "version"):
        import crate_jax

        print(f"crate_jax {crate_jax.__version__}")
        return 0
    if command not in COMMANDS:
        raise UserError(f"there is no command {command!r}{nearest(command, COMMANDS)}")
    module = importlib.import_module(f"crate_jax.cli.{command}")
    parser = _Parser(
        prog=f"crate-jax {command}", description=module.__doc__, formatter_class=_Help, epilog=SETTINGS.get(command)
    )
    module.add_arguments(parser)
    rest, overrides = split_overrides(arguments)
    parsed = parser.parse_args(rest)
    parsed.overrides = overrides
    _refuse_empty(parser, parsed)
    _expand_home(parsed)
    _check_target(command, parsed)
    if command in COMPUTES:
        from crate_jax.distributed.hosts import joined

        with joined(_settings(parsed), signals, trains=command in TRAINS), _listing(command):
            return module.run(parsed) or 0
    if signals is not None:
        signals.started()
    return module.run(parsed) or 0


def _check_here():
    """Refuses to run where no relative path means anything."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current folder is not there any more; change to one that is, and start again.") from None


def _listing(command):
    """Evaluations ask for their splits again and again; a training does once, and would hold the listing for days."""
    from crate_jax.data.listed_once import listed_once

    return contextlib.nullcontext() if command in TRAINS else listed_once()


def _refuse_empty(parser, parsed):
    """A flag that is given as nothing, as by a variable of the shell that is not set, would count as not given."""
    for action in parser._actions:
        values = getattr(parsed, action.dest, None)
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str) and not value.strip():
                name = f"{action.option_strings[0]}=" if action.option_strings else action.metavar or action.dest
                raise UserError(
                    f"{name} is empty; give it a value" + (", or leave it out." if not action.required else ".")
                )


def _expand_home(parsed):
    """Paths that begin with `~`: a shell leaves the one in `--out=~/x` as it is."""
    for name in PATHS:
        if getattr(parsed, name, None):
            setattr(parsed, name, os.path.expanduser(getattr(parsed, name)))


def _check_target(command, parsed):
    """Whether results can be written, before any are computed."""
    from crate_jax.storage import check_writable, folder_at, is_remote

    flag, target = "--out", getattr(parsed, "out", None)
    is_file = command in ("features", "export")
    if command == "convert":
        flag, target, is_file = "OUT", parsed.target, parsed.to != "flax"
    elif target is None and (command in INTO_WORKDIR or (command == "sweep" and not is_remote(parsed.workdir))):
        flag, target = "--workdir", parsed.workdir
    elif target is None and command == "inspect" and parsed.config and parsed.batch:
        target = "."
    if target is None or (command == "convert" and is_remote(target)):  # which refuses it by itself
        return
    folder_at(target, flag)  # a name that nothing can be written under
    if is_file and not is_remote(target):
        if os.path.isdir(target) and not (command == "export" and parsed.to == "savedmodel"):
            raise UserError(f"{flag}={target} is a folder; name the file to write.")
        target = os.path.dirname(target) or "."
    check_writable(target, flag)


def _settings(parsed):
    """`distributed` of the config that a command line names: what the hosts are joined with."""
    from crate_jax.config import default_config, load_config, override

    if getattr(parsed, "config", None):
        return load_config(parsed.config, parsed.overrides).distributed
    pairs = [pair for pair in parsed.overrides if pair[0].startswith("distributed.")]
    return override(default_config(), pairs).distributed


def _explained(error):
    """What a person reads of an exception that is about their machine or storage, a UserError; None for any other."""
    from crate_jax.storage_errors import explained

    if isinstance(error, RuntimeError) and "Unable to initialize backend" in str(error):
        named, why = os.environ.get("JAX_PLATFORMS"), first_line(error)[:300]
        return UserError(f"JAX_PLATFORMS={named}: {why}; unset it, or install jax for that platform.")
    return explained(error)


def main(arguments=None):
    """The console command; its exit code is the result."""
    from crate_jax.distributed.signals import INTERRUPTED, ProgramSignals

    for name in ("stdout", "stderr"):  # None where the program was started with it closed, as by `2>&-`
        setattr(sys, name, getattr(sys, name) or open(os.devnull, "w"))  # noqa: SIM115
        if hasattr(stream := getattr(sys, name), "reconfigure"):  # what a locale has no letter for is spelled out
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    quiet_libraries()
    with ProgramSignals() as signals:
        try:
            return run(sys.argv[1:] if arguments is None else list(arguments), signals)
        except KeyboardInterrupt:
            print("crate-jax: interrupted", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains at exit that it cannot flush
            return 0
        except Exception as error:
            if signals.interrupted and not isinstance(error, UserError):  # an ImportError, where it came within one
                print("crate-jax: interrupted", file=sys.stderr)
                return INTERRUPTED
            told = _explained(error)
            if told is None:
                raise
            print(f"crate-jax: {told}", file=sys.stderr)
            return getattr(told, "exit_code", 1)
