"""What frozen features are worth to a nearest-neighbour classifier: weighted cosine, k = 20, T = 0.07, exact.

    crate-jax knn --workdir=workdirs/quickstart [--features=cells@2] [--k=20] [--temperature=0.07]
    crate-jax knn --workdir=workdirs/quickstart --images=a.jpg,b.png

Writes knn.json, accuracy on data.validation_split, and figures/knn.png, test pictures beside their nearest training
examples. The features are chosen on a held-out part of the training set. With --images each of those pictures gets its
neighbours and their vote (figures/knn_images.png).
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.cli.numbers import real, whole
    from crate_jax.evaluation.subject_arguments import add_subject_arguments

    add_subject_arguments(parser)
    parser.add_argument("--features", help="POOLING@LAYER, such as cells@2; chosen if not given")
    parser.add_argument("--images", help="pictures of your own: files separated by commas, or a folder")
    parser.add_argument("--k", type=whole(1), default=20, help="neighbours that vote")
    parser.add_argument("--temperature", type=real(1e-3, 1000), default=0.07, help="of their weights, exp(cosine / T)")


def run(arguments):
    """The command."""
    from crate_jax.distributed.compilation_cache import keep_compiled
    from crate_jax.evaluation.knn_run import classify
    from crate_jax.evaluation.subject import resolve

    subject = resolve(arguments)
    keep_compiled(subject.out)
    results = classify(
        subject,
        features=arguments.features,
        k=arguments.k,
        temperature=arguments.temperature,
        pictures=arguments.images,
    )
    subject.write("knn.json", results)
    print(f"{results['accuracy']:.1%} by {results['features']}, k = {results['k']}, T = {results['temperature']:g}")
    for one in results.get("images", ()):
        print(f"{one['name']}: {', '.join(f'{name} {share:.0%}' for name, share in one['votes'].items())}")
    print(subject.out / "figures" / "knn.png")
