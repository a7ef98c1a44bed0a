"""Pre-trains a masked autoencoder. Run again with the same workdir, it resumes exactly.

    crate-jax pretrain --config=quickstart --workdir=workdirs/quickstart
    crate-jax pretrain --config=imagenet_base --workdir=gs://BUCKET/base --config.mesh.fsdp=8

Any setting is a flag of its own, such as --config.seed=1; `crate-jax inspect --config=quickstart` lists them all.
Ctrl-C saves a checkpoint before the run ends.
"""

from crate_jax.errors import names_arguments


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    parser.add_argument("--config", required=True, help="a file, or the name of an installed config")
    parser.add_argument("--workdir", required=True, help="a folder for checkpoints, metrics and figures; gs:// too")


def run(arguments):
    """The command."""
    import signal

    from crate_jax.config import load_config
    from crate_jax.distributed.host_cores import use_all_cores

    config = load_config(arguments.config, arguments.overrides)
    use_all_cores(config)
    outcome, _ = train_in(config, arguments.workdir, second_interrupt=signal.SIG_DFL)
    if not outcome.preempted:
        from crate_jax.training.progress import say

        workdir = arguments.workdir.rstrip("/")
        say(f"figure: {workdir}/figures/loss.png")
        say(f"next: crate-jax COMMAND --workdir={workdir}, COMMAND being reconstruct, probe, knn or analyze")
    return config.distributed.preemption_exit_code if outcome.preempted else 0


def layer_measurement(model, mean, std):
    """What the log says of the layers: (params, uint8 images, `observers.on_one_device`) to scalars by name."""
    import jax

    from crate_jax.analysis.layerwise import measure_one_by_one
    from crate_jax.training.objective import normalise

    @jax.jit
    def means(rows):
        return {
            f"{name}/{layer}": row.mean()
            for name, layers in rows.items()
            for layer, row in zip(model.encoder_names, layers, strict=True)
        }

    def measure(params, images_BxHxWxC, bring):
        return means(measure_one_by_one(model, params, normalise(images_BxHxWxC, mean, std), bring))

    return measure


def measuring_observers(program):
    """What pre-training measures beside its loss: a list of observers.

    Args:
        program: from `training.program.build_program`.
    """
    from crate_jax.evaluation.monitor import Evaluation, make_evaluator
    from crate_jax.models.masked_autoencoder import CrateMae
    from crate_jax.training import observers
    from crate_jax.training.objective import channel_statistics

    config, made = program.config, []
    if config.measure_every_steps and isinstance(program.model, CrateMae):
        mean, std = channel_statistics(config, program.model.channels)
        measure = layer_measurement(program.model, mean, std)
        made.append(
            observers.Layers(
                measure,
                mesh=program.mesh,
                every=config.measure_every_steps,
                images=config.measure_images,
                total_steps=program.total_steps,
                alarms=layer_alarms(program.model),
            )
        )
    if config.evaluate_every_steps:
        made.append(
            Evaluation(
                [make_evaluator(config, program.model)],
                mesh=program.mesh,
                every=config.evaluate_every_steps,
                total_steps=program.total_steps,
            )
        )
    return made


def layer_alarms(model):
    """From a logged line to sentences about layers that go wrong, compared with the first measured line."""
    from crate_jax.analysis.alarms import alarms

    first = {}

    def look(scalars):
        rows = {}
        for name in sorted(scalars):
            kind, _, layer = name.partition("/")
            if layer in model.encoder_names:
                rows.setdefault(kind, []).append(scalars[name])
        if not rows:
            return []
        now = rows | {"loss": scalars["loss"]}
        if not first:
            first.update(now)
        return alarms(now, earlier=first)

    return look


@names_arguments
def pretrain(config, workdir):
    """Runs pre-training in this process.

    Args:
        config: a config, or the name or file of one.
        workdir: a folder; a run of this config in it is resumed.

    Returns:
        A `training.loop.Outcome`.

    Raises:
        UserError: settings, data or a workdir that will not do.
        KeyboardInterrupt: Ctrl-C was pressed (a cell was stopped); a checkpoint was saved first.
    """
    from crate_jax.config import load_config

    outcome, interrupted = train_in(load_config(config) if isinstance(config, str) else config, workdir)
    if interrupted and outcome.preempted:
        raise KeyboardInterrupt
    return outcome


def train_in(config, workdir, second_interrupt=None):
    """Pre-trains a checked config in a folder; arguments and results of `training.run.run_training`."""
    import jax

    from crate_jax.data import pipeline
    from crate_jax.distributed.sharding import batch_sharding
    from crate_jax.storage import output_folder
    from crate_jax.training.loss_curve import plot_loss
    from crate_jax.training.preflight import check_splits
    from crate_jax.training.program import build_program
    from crate_jax.training.progress import announce
    from crate_jax.training.run import run_training
    from crate_jax.training.run_folder import RunFolder

    workdir = output_folder(workdir)
    check_splits(config)
    examples = pipeline.num_train_examples(config)
    program = build_program(config, examples)
    announce(program, workdir, examples)
    model = program.model

    def make_batches(step):
        return pipeline.train_batches(
            config, model.image_size, model.channels, batch_sharding(program.mesh), start_step=step
        )

    outcome, interrupted = run_training(
        program,
        workdir,
        make_batches,
        watch=lambda folder, step: measuring_observers(program),
        second_interrupt=second_interrupt,
    )
    folder = RunFolder(workdir)
    if jax.process_index() == 0 and folder.metrics.exists():
        plot_loss(folder.metrics, folder.figures / "loss.png")
    return outcome, interrupted
