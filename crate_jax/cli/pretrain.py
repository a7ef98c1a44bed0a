"""Pre-trains a masked autoencoder. Run again with the same workdir, it goes on exactly where it stopped.

crate-jax pretrain --config=quickstart --workdir=workdirs/quickstart
crate-jax pretrain --config=imagenet_base --workdir=gs://BUCKET/base --config.mesh.fsdp=8
"""

import logging
import time

logger = logging.getLogger(__name__)


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    parser.add_argument("--config", required=True, help="a file, or the name of an installed config")
    parser.add_argument("--workdir", required=True, help="a folder for checkpoints, metrics and figures; gs:// too")


def run(arguments):
    """The command."""
    from crate_jax.config import load_config
    from crate_jax.distributed.host_cores import use_all_cores
    from crate_jax.distributed.hosts import joined

    config = load_config(arguments.config, arguments.overrides)
    use_all_cores(config)
    with joined(config):
        outcome = pretrain(config, arguments.workdir)
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


def make_observers(program, folder, first_step):
    """The observers of pre-training.

    Args:
        program: from `training.program.build_program`.
        folder: a `RunFolder`.
        first_step: that the run begins or goes on at.

    Returns:
        A list; the first host writes, the others only measure.
    """
    import jax

    from crate_jax.config import flatten
    from crate_jax.distributed.watchdog import Watchdog
    from crate_jax.evaluation.evaluator import Evaluation, make_evaluator
    from crate_jax.models.masked_autoencoder import CrateMae
    from crate_jax.training import observers
    from crate_jax.training.metrics_file import MetricsFile
    from crate_jax.training.objective import channel_statistics

    config = program.config
    made = [Watchdog(config.distributed.stall_seconds)]
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
    if config.profile_at_step:
        made.append(observers.Profiler(folder.path, config.profile_at_step))
    if jax.process_index() == 0:
        made.append(observers.MetricsLog(MetricsFile(folder.metrics, first_step)))
        simple = {name: str(value) for name, value in flatten(config).items()}
        made.append(observers.TensorBoard(folder.path, simple))
        made.append(observers.Progress(program.total_steps, first_step))
    return made


def layer_alarms(model):
    """From a line of the log to sentences about layers that go wrong, compared with the first measured line."""
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


def pretrain(config, workdir):
    """Runs pre-training in this process.

    Args:
        config: a config, or the name or file of one.
        workdir: a folder; where it holds a run of this config, that run goes on.

    Returns:
        A `training.loop.Outcome`.

    Raises:
        UserError: settings, data or a workdir that will not do.
    """
    import jax

    from crate_jax.config import load_config
    from crate_jax.data import pipeline
    from crate_jax.distributed.compilation_cache import keep_compiled
    from crate_jax.distributed.hosts import Preemption, abandon
    from crate_jax.distributed.sharding import batch_sharding
    from crate_jax.training.checkpoint import Checkpoints
    from crate_jax.training.loop import train
    from crate_jax.training.loss_curve import plot_loss
    from crate_jax.training.preflight import check_splits
    from crate_jax.training.program import build_program
    from crate_jax.training.progress import announce
    from crate_jax.training.run_folder import RunFolder

    if isinstance(config, str):
        config = load_config(config)
    begin = time.perf_counter()
    check_splits(config)
    examples = pipeline.num_train_examples(config)
    program = build_program(config, examples)
    announce(program, workdir, examples)
    folder = RunFolder(workdir)
    folder.open(config)
    keep_compiled(folder.path)
    settings = config.checkpoint
    checkpoints = Checkpoints(folder.checkpoints, keep=settings.keep, keep_every_steps=settings.keep_every_steps)
    state = checkpoints.restore_newest(program.abstract)
    if state is None:
        state = program.new_state()
    first = int(state.step)
    if first:
        logger.info("going on from step %d of %d in %s", first, program.total_steps, folder.path)
    batches = pipeline.train_batches(
        config, program.model.image_size, program.model.channels, batch_sharding(program.mesh), start_step=first
    )
    watching = make_observers(program, folder, first)
    try:
        with Preemption() as preemption:
            outcome = train(program, state, batches, checkpoints, watching, preemption)
    except BaseException as error:
        abandon(error)  # an orderly end would wait for the other hosts, which wait for this one
        raise
    finally:
        batches.close()
        for observer in watching:
            observer.close()
        checkpoints.close()
    if jax.process_index() == 0:
        plot_loss(folder.metrics, folder.figures / "loss.png")
        what = "stopped, to be gone on with," if outcome.preempted else "finished"
        logger.info("%s at step %d after %.0f s: %s", what, outcome.step, time.perf_counter() - begin, folder.path)
    return outcome
