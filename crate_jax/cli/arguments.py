"""Flags that several commands share. A number outside its range is refused with the range, before anything is computed.

No heavy import, so that --help is quick.
"""

import argparse

from crate_jax.errors import WORD, UserError, check_real, check_whole

CHECKPOINT = (
    "instead of --workdir: a .pth, .safetensors, what `convert` wrote, hf://ORG/NAME, or the name of a network that "
    "ships (photographs)"
)


OF_RESULTS = "folder of the results (default: the workdir); needed with --checkpoint"


def add_subject_arguments(parser, workdir="of a pretrain or finetune", out=OF_RESULTS):
    """`--workdir=D`, or `--checkpoint=P --config=F --out=DIR`: what is evaluated."""
    parser.add_argument("--workdir", help=workdir)
    parser.add_argument("--checkpoint", help=CHECKPOINT)
    parser.add_argument(
        "--config",
        help="with --checkpoint: file or name of the config that says the data set (a network that ships has its own)",
    )
    parser.add_argument("--out", help=out)


def chosen_by(features_from):
    """Who chose the features of a result, as the terminal shows it: of its `features_from`."""
    return features_from if features_from in ("given", "default") else f"chosen by {features_from}"


def whole(low, high=WORD):
    """An argparse type: a whole number in [low, high]."""
    return lambda text: _parsed(text, int, check_whole, low, high)


def real(low, high):
    """An argparse type: a number in [low, high]."""
    return lambda text: _parsed(text, float, check_real, low, high)


def _parsed(text, kind, check, *limits):
    try:
        value = kind(text)
    except ValueError:
        value = text
    try:
        check("", value, *limits)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("=").rstrip(".")) from None
    return value
