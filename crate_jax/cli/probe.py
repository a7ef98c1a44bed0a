"""What frozen features are worth to a linear classifier: logistic regression, layer and regularisation chosen on a
held-out part of the training set.

    crate-jax probe --workdir=workdirs/quickstart
    crate-jax probe --checkpoint=crate_base.pth --config=probe_cifar10 --out=results [--features=cls@last]
    crate-jax probe --workdir=workdirs/quickstart --images=a.jpg,b.png

Writes probe.json and figures/probe.png: accuracy on data.validation_split, the same for the untrained network and for
raw pixels, and few-shot: with 5 and 10 examples a class, means over five draws. With --images the classifier, fitted on
data.train_split, says what it takes each of those pictures for (figures/probe_images.png).
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.evaluation.subject_arguments import add_subject_arguments

    add_subject_arguments(parser)
    parser.add_argument("--features", help="POOLING@LAYER, such as cells@2; chosen if not given")
    parser.add_argument(
        "--shots", help="examples a class of the few-shot probes, such as 1,5 (5,10 if there are as many)"
    )
    parser.add_argument("--images", help="pictures of your own: files separated by commas, or a folder")


def run(arguments):
    """The command."""
    from crate_jax.distributed.compilation_cache import keep_compiled
    from crate_jax.errors import UserError
    from crate_jax.evaluation.probe_run import probe
    from crate_jax.evaluation.subject import resolve

    shots = None
    if arguments.shots:
        if not all(part.strip().isdecimal() for part in arguments.shots.split(",")):
            raise UserError(f"--shots={arguments.shots}: give whole numbers, separated by commas, such as 5,10.")
        shots = sorted({int(part) for part in arguments.shots.split(",")})
    subject = resolve(arguments)
    keep_compiled(subject.out)
    results = probe(subject, features=arguments.features, shots=shots, pictures=arguments.images)
    subject.write("probe.json", results)
    print(
        f"{results['accuracy']:.1%} by {results['features']} (C = {results['C']:g}); untrained "
        f"{results['untrained_accuracy']:.1%}, raw pixels {results['raw_pixel_accuracy']:.1%}; "
        f"{results['train_examples']} examples to train on, {results['test_examples']} to test on"
    )
    for number, one in results["few_shot"].items():
        print(
            f"{number} a class, {results['few_shot_draws']} draws: {one['accuracy']:.1%}; untrained "
            f"{one['untrained_accuracy']:.1%}, raw pixels {one['raw_pixel_accuracy']:.1%}"
        )
    for one in results.get("images", ()):
        print(f"{one['name']}: {', '.join(f'{name} {share:.0%}' for name, share in one['probabilities'].items())}")
    print(subject.out / "figures" / "probe.png")
