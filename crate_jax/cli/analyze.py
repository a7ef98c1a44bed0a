"""Sees through the white box: what each layer does, beside what the theory says it does.

    crate-jax analyze --workdir=workdirs/quickstart
    crate-jax analyze --workdir=workdirs/quickstart --images=a.jpg,b.png
    crate-jax analyze --checkpoint=crate_base.pth --config=imagenet_base --out=results --images=FOLDER

Writes report.html (one file, no server, no network), analysis.json and figures/analysis/*.png: coding rates, sparsity
and the objective by layer, attention and principal components, subspaces and dictionary, the decoder as the encoder's
inverse, masked completion as structured diffusion. Images of data.validation_split, or with --images your own.
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.cli.numbers import whole
    from crate_jax.evaluation.subject_arguments import add_subject_arguments

    add_subject_arguments(parser)
    parser.add_argument("--images", help="pictures of your own: files separated by commas, or a folder")
    parser.add_argument("--limit", type=whole(1), default=64, help="images of the split that are looked at")


def run(arguments):
    """The command."""
    from crate_jax.analysis.analyze import analyze
    from crate_jax.distributed.compilation_cache import keep_compiled
    from crate_jax.evaluation.subject import resolve

    subject = resolve(arguments)
    keep_compiled(subject.out)
    results, report = analyze(subject, pictures=arguments.images, limit=arguments.limit)
    for sentence in results["alarms"]:
        print(f"ALARM: {sentence}")
    departs = [name for name, one in results["findings"].items() if one["departs"]]
    print(
        f"{report}: {len(results['findings'])} sections, {len(departs)} depart from the theory ({', '.join(departs)})"
    )
