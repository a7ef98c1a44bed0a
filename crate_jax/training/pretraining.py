"""Pre-training as a function: a masked autoencoder trained in a folder, or resumed there."""

import functools
import logging

import jax

from crate_jax.data import pipeline
from crate_jax.distributed.sharding import batch_sharding
from crate_jax.storage import output_folder
from crate_jax.training.loss_curve import plot_loss
from crate_jax.training.preflight import check_pretraining, check_splits
from crate_jax.training.program import build_program
from crate_jax.training.progress import announce
from crate_jax.training.run import run_training
from crate_jax.training.run_folder import RunFolder
from crate_jax.training.start import starting_params, with_params

logger = logging.getLogger(__name__)


def pretrain(config, workdir, *, watch=lambda program: (), second_interrupt=None):
    """Pre-trains in this process.

    Args:
        config: a checked config.
        workdir: a folder; a run of this config in it is resumed.
        watch: function of the `training.program.Program` to further observers.
        second_interrupt: what a second Ctrl-C does, see `distributed.signals.Preemption`.

    Returns:
        (`training.loop.Outcome`, whether Ctrl-C ended it).

    Raises:
        UserError: settings, data or a workdir that will not do.
    """
    workdir = output_folder(workdir)
    check_pretraining(config)  # before the data are opened
    check_splits(config)
    examples = pipeline.num_train_examples(config)
    program = build_program(config, examples)
    announce(program, workdir, examples)
    model = program.model

    make_batches = functools.partial(
        pipeline.train_batches, config, model.image_size, model.channels, batch_sharding(program.mesh)
    )

    def begin():
        if config.init_from is None:
            return program.new_state()
        params = starting_params(config.init_from, config, model)
        logger.info(
            "init_from=%s: its parameters only; step, optimizer, schedule and data order start at 0", config.init_from
        )
        return with_params(program.new_state(), params, program.abstract)

    outcome, interrupted = run_training(
        program,
        workdir,
        make_batches,
        begin=begin,
        watch=lambda folder, step: watch(program),
        second_interrupt=second_interrupt,
    )
    folder = RunFolder(workdir)
    if jax.process_index() == 0 and folder.metrics.exists():
        plot_loss(folder.metrics, folder.figures / "loss.png")
    return outcome, interrupted
