"""Measures every layer, and decides which claims of the theory hold for this network.

    crate-jax analyze --workdir=workdirs/quickstart
    crate-jax analyze --workdir=workdirs/quickstart --baseline=workdirs/another
    crate-jax analyze --workdir=workdirs/quickstart --images=a.jpg,b.png
    crate-jax analyze --checkpoint=crate_base.pth --config=imagenet_base --out=results --images=FOLDER

Writes report.html (one file, no server, no network), analysis.json and figures/analysis/*.png: a table of claims with
95 % intervals and verdicts beside the untrained network (and a second run); then coding rates, sparsity and the
objective by layer, subspaces and dictionary, attention and principal components, the decoder as the encoder's inverse,
masked completion as structured diffusion. Images of data.validation_split, or with --images your own.
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.cli.arguments import add_subject_arguments, whole

    add_subject_arguments(parser)
    parser.add_argument(
        "--images", help="pictures of your own: files separated by commas, or a folder with its sub-folders"
    )
    parser.add_argument("--limit", type=whole(2), default=64, help="images of the split that are measured")
    parser.add_argument("--baseline", help="workdir of a second run, measured on the same images and shown beside")


def run(arguments):
    """The command."""
    from crate_jax.analysis.analyze import analyze
    from crate_jax.distributed.compilation_cache import keep_compiled
    from crate_jax.evaluation.subject import of_run, resolve

    subject = resolve(arguments)
    baseline = of_run(arguments.baseline) if arguments.baseline else None
    keep_compiled(subject.out)
    result = analyze(subject, pictures=arguments.images, limit=arguments.limit, baseline=baseline)
    for sentence in result.alarms:
        print(f"ALARM: {sentence}")
    for row in result.claims:
        others = "".join(f"; {name} {one['shown'] if one else '-'}" for name, one in row["baselines"].items())
        print(f"{row['verdict']:<13}  {row['claim']}  {row['shown']}{others}  ({row['threshold']})")
    print(result.report)
