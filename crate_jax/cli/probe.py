"""What frozen features are worth to a linear classifier: logistic regression, layer and regularisation chosen on a
held-out part of the training set.

    crate-jax probe --workdir=workdirs/quickstart
    crate-jax probe --checkpoint=crate_base.pth --config=probe_cifar10 --out=results [--features=cls@last]

Writes probe.json: accuracy on data.validation_split, the same for the untrained network and for raw pixels.
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.evaluation.subject_arguments import add_subject_arguments

    add_subject_arguments(parser)
    parser.add_argument("--features", help="POOLING@LAYER, such as cells@2; chosen if not given")


def run(arguments):
    """The command."""
    from crate_jax.evaluation.probe_run import probe
    from crate_jax.evaluation.subject import resolve

    subject = resolve(arguments)
    results = probe(subject, features=arguments.features)
    subject.write("probe.json", results)
    print(
        f"{results['accuracy']:.1%} by {results['features']} (C = {results['C']:g}); untrained "
        f"{results['untrained_accuracy']:.1%}, raw pixels {results['raw_pixel_accuracy']:.1%}; "
        f"{results['train_examples']} examples to train on, {results['test_examples']} to test on"
    )
