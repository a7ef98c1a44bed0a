"""What frozen features are worth to a linear classifier: logistic regression, layer and regularisation chosen on a
held-out part of the training set.

    crate-jax probe --workdir=workdirs/quickstart
    crate-jax probe --checkpoint=crate_base.pth --config=probe_cifar10 --out=results [--features=cls@last]
    crate-jax probe --workdir=workdirs/quickstart --images=a.jpg,b.png
    crate-jax probe --workdir=workdirs/quickstart --protocol=paper|mae|attentive

Writes probe.json and figures/probe*.png: accuracy on data.validation_split with its 95 % interval, the same for the
untrained network and for raw pixels (--baselines), by class, and few-shot: with 5 and 10 examples per class, means over
five draws, layer and C chosen within those examples. On another data set than the run's own (--config.data.name) the
names end in it: probe-cifar10.json. --images=... takes the place of the held-out split: the classifier, fitted on
data.train_split, predicts a class for each of those pictures (probe-images.json).

Other protocols have files of their own. paper: the class token of the last layer. mae: a head trained by MAE's recipe
(configs/probe_mae.py; flags such as --config.batch_size=256 override it). attentive: a learned query that attends to
the patch tokens; learning rate and weight decay are chosen among heads that are trained at once.
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.cli.arguments import add_subject_arguments

    add_subject_arguments(parser)
    parser.add_argument("--features", help="POOLING@LAYER, such as cells@encoder_01; chosen if not given")
    parser.add_argument(
        "--shots", help="examples per class of the few-shot probes, such as 1,5, or none (5,10 if there are as many)"
    )
    parser.add_argument("--baselines", default="untrained,raw", help="some of untrained,raw, or none")
    parser.add_argument("--protocol", default="ours", help="ours, paper, mae or attentive")
    parser.add_argument(
        "--images", help="pictures in place of the held-out split: files, or a folder with its sub-folders"
    )


def run(arguments):
    """The command."""
    import re
    import signal

    from crate_jax.distributed.compilation_cache import keep_compiled
    from crate_jax.errors import UserError
    from crate_jax.evaluation.probe import probe
    from crate_jax.evaluation.subject import resolve

    shots = () if arguments.shots == "none" else None
    if arguments.shots and shots is None:
        if not all(re.fullmatch("[0-9]{1,9}", part.strip()) for part in arguments.shots.split(",")):
            raise UserError(f"--shots={arguments.shots}: give numbers separated by commas, such as 5,10, or none.")
        shots = sorted({int(part) for part in arguments.shots.split(",")})
    subject = resolve(arguments)
    keep_compiled(subject.out)
    baselines = [one for one in arguments.baselines.split(",") if one not in ("", "none")]
    result = probe(
        subject,
        protocol=arguments.protocol,
        features=arguments.features,
        shots=shots,
        baselines=baselines,
        pictures=arguments.images,
        overrides=arguments.overrides,
        second_interrupt=signal.SIG_DFL,
    )
    if result is None:
        return subject.config.distributed.preemption_exit_code
    file = subject.save(result)
    for line in lines_of(result.numbers):
        print(line)
    print(file)
    return 0


def lines_of(results):
    """What the terminal shows of a result."""
    if "images" in results:
        for one in results["images"]:
            yield f"{one['name']}: {', '.join(f'{name} {share:.0%}' for name, share in one['probabilities'].items())}"
        return
    names = {"untrained_accuracy": "untrained", "raw_pixel_accuracy": "raw pixels"}
    if "interval" not in results:
        yield f"{results['accuracy']:.1%} of {results['test_examples']} test examples, after {results['steps']} steps"
        return
    low, high = results["interval"]
    if "grid" in results:
        yield (
            f"{results['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}) by {results['features']}, learning "
            f"rate {results['learning_rate']:g}, weight decay {results['weight_decay']:g}"
        )
        return
    others = "".join(f"; {name} {results[key]:.1%}" for key, name in names.items() if key in results)
    yield (
        f"{results['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}) by {results['features']} "
        f"(C = {results['C']:g}){others}; {results['train_examples']} training, {results['test_examples']} test"
        f" examples"
    )
    for number, one in results["few_shot"].items():
        others = "".join(f"; {name} {one[key]:.1%}" for key, name in names.items() if key in one)
        yield f"{number} a class, {results['few_shot_draws']} draws: {one['accuracy']:.1%}{others}"
