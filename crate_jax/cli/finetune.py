"""Trains a classifier on top of a pre-trained network; run the same command again, it resumes exactly.

    crate-jax finetune --workdir=workdirs/digits --labels_per_class=10
    crate-jax finetune --checkpoint=crate_base.pth --config=finetune_cifar10 --out=workdirs/cifar10

The recipe (--config) is a config; by default the data set's size chooses: finetune, finetune:medium, finetune_imagenet
(it is logged). What it does not give of `model.*`, `data.*` and `seed` is inherited from the pre-training run.
Results: finetune.json and figures/finetune.png, or with --labels_per_class=K few_labels.json and few_labels.png: the
pre-trained network, the same from scratch and raw pixels on K examples per class, means over --draws draws.
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the recipe."""
    from crate_jax.cli.arguments import CHECKPOINT, whole

    parser.add_argument("--workdir", help="of a pretrain")
    parser.add_argument("--checkpoint", help=CHECKPOINT)
    parser.add_argument("--config", help="the recipe: a file or an installed config (default: by the data set's size)")
    parser.add_argument(
        "--out",
        help="folder of this training (default: WORKDIR/finetune/RECIPE, the recipe's name, which may be finetune too)",
    )
    parser.add_argument("--labels_per_class", type=whole(1), help="train on K examples per class, and from scratch too")
    parser.add_argument("--draws", type=whole(1, 1000), help="with --labels_per_class: number of draws (default: 3)")
    parser.add_argument("--from_scratch", action="store_true", help="the same network without its pre-training")


def run(arguments):
    """The command."""
    import signal

    import jax
    from etils import epath

    from crate_jax.config import default_config, load_config
    from crate_jax.distributed.compilation_cache import keep_compiled
    from crate_jax.errors import UserError
    from crate_jax.evaluation.finetune import check_flags, finetune
    from crate_jax.evaluation.recipe import folder_name, recipe_for
    from crate_jax.evaluation.subject import has_config, of_checkpoint, of_run
    from crate_jax.interop.named_networks import located
    from crate_jax.training.run_folder import read_config

    if bool(arguments.workdir) == bool(arguments.checkpoint):
        raise UserError("give either --workdir=D or --checkpoint=P --out=DIR, and --config=RECIPE to choose one.")
    if arguments.checkpoint and not arguments.out:
        raise UserError(f"--checkpoint={arguments.checkpoint} also needs --out.")
    check_flags(arguments.labels_per_class, arguments.draws, arguments.from_scratch)
    name = arguments.config
    pretrained = arguments.workdir or (located(arguments.checkpoint) if has_config(arguments.checkpoint) else None)
    if not name:
        config = read_config(pretrained) if pretrained else default_config()
        name = recipe_for(config, arguments.overrides, arguments.labels_per_class)
    recipe = load_config(name, arguments.overrides)
    if arguments.workdir:
        subject = of_run(arguments.workdir)
    else:  # a file that no config lies beside: the recipe says what its tensors do not
        subject = of_checkpoint(arguments.checkpoint, None if pretrained else recipe, arguments.out)
    out = epath.Path(arguments.out or epath.Path(arguments.workdir) / "finetune" / folder_name(name))
    keep_compiled(out)
    result = finetune(
        subject,
        recipe,
        out,
        labels_per_class=arguments.labels_per_class,
        draws=arguments.draws,
        from_scratch=arguments.from_scratch,
        second_interrupt=signal.SIG_DFL,
    )
    if result is None:
        return recipe.distributed.preemption_exit_code
    # from scratch it is no result of the workdir's network
    file = result.save(out) if arguments.from_scratch else subject.save(result, also=out)
    if jax.process_index() == 0:
        if arguments.labels_per_class:
            print(
                f"{result.labels_per_class} labels per class, {result.draws} draws: pre-trained "
                f"{result.pretrained:.1%}, from scratch {result.from_scratch:.1%}, raw pixels {result.raw_pixels:.1%}"
            )
        else:
            print(f"{result.accuracy:.1%} on {result.test_examples} examples, after {result.steps} steps: {out}")
        print(file)
    return 0
