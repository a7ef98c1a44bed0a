"""Pre-trains a masked autoencoder. Run again with the same workdir, it resumes exactly.

    crate-jax pretrain --config=quickstart --workdir=workdirs/quickstart
    crate-jax pretrain --config=imagenet_base --workdir=gs://BUCKET/base --config.mesh.fsdp=8

Any setting is a flag of its own, such as --config.seed=1; `crate-jax inspect --config=quickstart` lists them all.
Ctrl-C saves a checkpoint before the run ends.
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    parser.add_argument("--config", required=True, help="a file, or the name of an installed config")
    parser.add_argument("--workdir", required=True, help="a folder for checkpoints, metrics and figures; gs:// too")


def run(arguments):
    """The command."""
    import signal

    from crate_jax.analysis.watching import measuring_observers
    from crate_jax.config import load_config
    from crate_jax.distributed.host_cores import use_all_cores
    from crate_jax.training.pretraining import pretrain
    from crate_jax.training.progress import say

    config = load_config(arguments.config, arguments.overrides)
    use_all_cores(config)
    outcome, _ = pretrain(config, arguments.workdir, watch=measuring_observers, second_interrupt=signal.SIG_DFL)
    if not outcome.preempted:
        workdir = arguments.workdir.rstrip("/")
        say(f"figure: {workdir}/figures/loss.png")
        say(f"next: crate-jax COMMAND --workdir={workdir}, COMMAND being reconstruct, probe, knn or analyze")
    return config.distributed.preemption_exit_code if outcome.preempted else 0
