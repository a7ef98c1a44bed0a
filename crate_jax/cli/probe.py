"""What frozen features are worth to a linear classifier: logistic regression, layer and regularisation chosen on a
held-out part of the training set.

    crate-jax probe --workdir=workdirs/quickstart
    crate-jax probe --checkpoint=crate_base.pth --config=probe_cifar10 --out=results [--features=cls@last]
    crate-jax probe --workdir=workdirs/quickstart --images=a.jpg,b.png

Writes probe.json and figures/probe*.png: accuracy on data.validation_split with its 95 % interval, the same for the
untrained network and for raw pixels (--baselines), by class, and few-shot: with 5 and 10 examples per class, means over
five draws, layer and C chosen within those examples. On another data set than the run's own (--config.data.name) the
names end in it: probe-cifar10.json. --images=... takes the place of the held-out split: the classifier, fitted on
data.train_split, predicts a class for each of those pictures (probe-images.json).
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.evaluation.subject_arguments import add_subject_arguments

    add_subject_arguments(parser)
    parser.add_argument("--features", help="POOLING@LAYER, such as cells@encoder_01; chosen if not given")
    parser.add_argument(
        "--shots", help="examples per class of the few-shot probes, such as 1,5 (5,10 if there are as many)"
    )
    parser.add_argument("--baselines", default="untrained,raw", help="some of untrained,raw, or none")
    parser.add_argument("--images", help="pictures in place of the held-out split: files, or a folder")


def run(arguments):
    """The command."""
    from crate_jax.distributed.compilation_cache import keep_compiled
    from crate_jax.errors import UserError
    from crate_jax.evaluation.probe import probe
    from crate_jax.evaluation.subject import resolve

    shots = None
    if arguments.shots:
        if not all(part.strip().isdecimal() for part in arguments.shots.split(",")):
            raise UserError(f"--shots={arguments.shots}: give whole numbers, separated by commas, such as 5,10.")
        shots = sorted({int(part) for part in arguments.shots.split(",")})
    subject = resolve(arguments)
    keep_compiled(subject.out)
    baselines = [one for one in arguments.baselines.split(",") if one not in ("", "none")]
    result = probe(subject, features=arguments.features, shots=shots, baselines=baselines, pictures=arguments.images)
    file = subject.save(result)
    for line in lines_of(result.numbers):
        print(line)
    print(file)


def lines_of(results):
    """What the terminal shows of a result."""
    if "images" in results:
        for one in results["images"]:
            yield f"{one['name']}: {', '.join(f'{name} {share:.0%}' for name, share in one['probabilities'].items())}"
        return
    names = {"untrained_accuracy": "untrained", "raw_pixel_accuracy": "raw pixels"}
    low, high = results["interval"]
    others = "".join(f"; {name} {results[key]:.1%}" for key, name in names.items() if key in results)
    yield (
        f"{results['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}) by {results['features']} "
        f"(C = {results['C']:g}){others}; {results['train_examples']} training, {results['test_examples']} test"
        f" examples"
    )
    for number, one in results["few_shot"].items():
        others = "".join(f"; {name} {one[key]:.1%}" for key, name in names.items() if key in one)
        yield f"{number} a class, {results['few_shot_draws']} draws: {one['accuracy']:.1%}{others}"
