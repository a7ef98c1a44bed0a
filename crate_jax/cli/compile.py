"""Compiles the train step for a TPU pod that is not there: does it fit, what does it move, what bounds it, how long.

    crate-jax compile --config=imagenet_base --topology=v5e:16x16
    crate-jax compile --config=imagenet_large --topology=v5p-128 --slices=2 --config.mesh.dcn_data=2 --json

Needs no TPU, only libtpu (the extra tpu); a minute or two for a large network. FLOPs are counted by hand, memory and
collectives are the compiler's, traffic is bounded from below (benchmarks/traffic.py measures it), times are what the
published peaks allow. Exit code 1 where it does not fit.
"""

import json
import logging

# so that a plan needs no data set at hand
_KNOWN_EXAMPLES = {("imagenet2012", "train"): 1_281_167, ("embedded_digits", "train"): 4000}

logger = logging.getLogger(__name__)


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.cli.arguments import whole

    parser.add_argument("--config", required=True, help="a file, or the name of an installed config")
    parser.add_argument("--topology", required=True, help="v5e:16x16, v5p:8x8x8, v5litepod-256, v6e-64, v4-32, ...")
    parser.add_argument("--slices", type=whole(1), default=1, help="so many of them, joined by the data-centre network")
    parser.add_argument(
        "--examples", type=whole(1, 10**12), help="of the training split, where the data set is not at hand"
    )
    parser.add_argument("--json", action="store_true", help="numbers instead of text")


def run(arguments):
    """The command."""
    from crate_jax.distributed.signals import ending_at_once

    with ending_at_once():
        return _run(arguments)


def _run(arguments):
    from crate_jax.planning.ahead_of_time import prepare_environment
    from crate_jax.planning.chips import find_topology

    topology = find_topology(arguments.topology, arguments.slices)
    prepare_environment()
    from crate_jax.config import load_config
    from crate_jax.planning.ahead_of_time import plan
    from crate_jax.planning.report import as_numbers, as_text, shortage

    overrides = list(arguments.overrides)
    if arguments.slices > 1 and "mesh.dcn_data" not in dict(overrides):
        overrides.append(("mesh.dcn_data", str(arguments.slices)))
    config = load_config(arguments.config, overrides)
    num_examples = arguments.examples or training_examples(config)
    found = plan(config, topology, num_examples)
    numbers = as_numbers(found, num_examples / config.batch_size if num_examples else None)
    if arguments.json:
        print(json.dumps(numbers, indent=2))
    if not found.fits:
        logger.error("crate-jax: %s", shortage(found))
        return 1
    if not arguments.json:
        print(as_text(found, numbers))
    return 0


def training_examples(config):
    """How many, from what is known, or from the data set.

    Raises:
        UserError: it is neither known nor there, and the config counts in epochs.
    """
    from crate_jax.errors import UserError

    known = _KNOWN_EXAMPLES.get((config.data.name, config.data.train_split))
    if known:
        return known
    from crate_jax.data.pipeline import num_train_examples

    try:
        return num_train_examples(config)
    except UserError as error:
        if config.total_steps is not None and config.optimizer.warmup_epochs is None:
            return 0
        raise UserError(f"{error} Or say how many examples it has: --examples=N.") from error
