"""What frozen features are worth to a nearest-neighbour classifier: weighted cosine, k = 20, T = 0.07.

    crate-jax knn --workdir=workdirs/quickstart [--features=cells@encoder_01] [--k=20] [--temperature=0.07]
    crate-jax knn --workdir=workdirs/quickstart --images=a.jpg,b.png

Writes knn.json, accuracy on data.validation_split, and figures/knn.png, test pictures beside their nearest training
examples. Without --features those that `probe` chose are taken (probe.json), else the best on a held-out part of the
training set; features_from in knn.json says which.
On another data set the names end in it (knn-cifar10.json). --images=... takes the place of the held-out split: each of
those pictures gets its neighbours and their vote (knn-images.json, figures/knn-images.png). The training examples are
sharded over all devices; the search is exact unless --approximate is given (lax.approx_max_k, faster on TPU).
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.cli.arguments import add_subject_arguments, real, whole

    add_subject_arguments(parser)
    parser.add_argument("--features", help="POOLING@LAYER, such as cells@encoder_01; chosen if not given")
    parser.add_argument(
        "--images", help="pictures in place of the held-out split: files, or a folder with its sub-folders"
    )
    parser.add_argument("--k", type=whole(1), default=20, help="neighbours that vote")
    parser.add_argument("--temperature", type=real(1e-3, 1000), default=0.07, help="of their weights, exp(cosine / T)")
    parser.add_argument("--approximate", action="store_true", help="by lax.approx_max_k: nearly exact, faster on TPU")


def run(arguments):
    """The command."""
    from crate_jax.cli.arguments import chosen_by
    from crate_jax.distributed.compilation_cache import keep_compiled
    from crate_jax.evaluation.knn import knn
    from crate_jax.evaluation.subject import resolve

    subject = resolve(arguments)
    keep_compiled(subject.out)
    result = knn(
        subject,
        features=arguments.features,
        k=arguments.k,
        temperature=arguments.temperature,
        pictures=arguments.images,
        approximate=arguments.approximate,
    )
    file = subject.save(result)
    results = result.numbers
    if "accuracy" in results:
        low, high = results["interval"]
        print(
            f"{results['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}) by {results['features']} "
            f"({chosen_by(results['features_from'])}), k = {results['k']}, T = {results['temperature']:g}"
        )
    for one in results.get("images", ()):
        print(f"{one['name']}: {', '.join(f'{name} {share:.0%}' for name, share in one['votes'].items())}")
    print(file)
