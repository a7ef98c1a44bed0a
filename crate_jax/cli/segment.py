"""Foreground masks that nobody trained: from class-token attention, principal components and normalised cuts.

    crate-jax segment --workdir=workdirs/quickstart

Writes segmentation.json and figures/segmentation.png: mean intersection over union on digits pasted over photographs,
whose masks are exact, for the network and for the same one untrained, with 95 % intervals. The layer is chosen on one
half of the images and measured on the other.
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.cli.arguments import add_subject_arguments, whole

    add_subject_arguments(parser)
    parser.add_argument("--limit", type=whole(4, 1000), default=128, help="images that are made")


def run(arguments):
    """The command."""
    from crate_jax.analysis.segmentation import METHODS, segment
    from crate_jax.evaluation.subject import resolve

    subject = resolve(arguments)
    result = segment(subject, count=arguments.limit)
    file = result.save(subject.out)
    for who in ("network", "untrained"):
        found = result.miou[who]
        print(f"{who}: " + "; ".join(f"{m} {found[m]['mean']:.3f} at {found[m]['layer']}" for m in METHODS))
    print(
        f"everything {result.miou['everything']['mean']:.3f}, best possible {result.miou['best possible']['mean']:.3f}"
    )
    print(file)
