"""Runs or emits every point of a sweep; run again, it resumes, and skips what is finished.

    crate-jax sweep --config=configs/sweeps/crate_vs_vit.py --workdir=workdirs/crate_vs_vit [--parallel=2]
    crate-jax sweep --config=crate_vs_vit --workdir=gs://BUCKET/sweep --emit=jobset

The workdir of a point is WORKDIR/NAME; WORKDIR/sweep.json says how each stands. On accelerators each of the points that
run at once gets chips of its own; more points than GPUs share them. Afterwards: crate-jax compare WORKDIR --out=DIR.
"""


def add_arguments(parser):
    """Flags; a sweep's overrides stand in its file."""
    from crate_jax.cli.arguments import whole

    parser.add_argument("--config", required=True, help="the sweep file, or the name of an installed one")
    parser.add_argument("--workdir", required=True, help="folder of the sweep")
    parser.add_argument("--parallel", type=whole(1), help="points at once (default: 1; of --emit=slurm all)")
    parser.add_argument("--point", help="run this one only: its name, or its number from 0")
    parser.add_argument("--emit", choices=("slurm", "jobset", "tpu_vm"), help="write what a scheduler runs instead")


def run(arguments):
    """The command."""
    import pathlib

    from crate_jax.errors import LOST_HOST, UserError
    from crate_jax.storage import write_whole
    from crate_jax.sweeps.emit import emit
    from crate_jax.sweeps.points import load_sweep
    from crate_jax.sweeps.run import Record, run_sweep

    if arguments.overrides:
        raise UserError(f"--config.{arguments.overrides[0][0]}: what a sweep varies stands in its file; set it there.")
    sweep = load_sweep(arguments.config)
    if arguments.emit:
        if arguments.point:
            raise UserError(f"--point={arguments.point}: --emit is for all points; leave one of them out.")
        name, text = emit(arguments.emit, sweep, arguments.workdir, arguments.parallel)
        if "://" not in arguments.workdir:
            folder = pathlib.Path(arguments.workdir)
            if not (folder / "sweep.json").exists():
                Record(sweep, folder).write()
            write_whole(folder / name, text)
        print(text, end="")
        return 0
    statuses = run_sweep(sweep, arguments.workdir, parallel=arguments.parallel or 1, only=arguments.point)
    counts = {status: list(statuses.values()).count(status) for status in ("done", "failed", "lost", "stopped")}
    print(", ".join(f"{count} {status}" for status, count in counts.items() if count) + f": {arguments.workdir}")
    if counts["stopped"]:
        return 143
    if counts["failed"]:
        return 1
    return LOST_HOST if counts["lost"] else 0
