"""Opens a page on which a masked picture is completed and every layer can be looked into (extra: demo).

    crate-jax demo --workdir=workdirs/quickstart
    crate-jax demo --workdir=workdirs/quickstart --baseline=workdirs/another
    crate-jax demo --checkpoint=crate_base.pth --config=imagenet_base --out=results

The page is served on this machine only (127.0.0.1); --host=0.0.0.0 opens it to the network. In a notebook, Colab
included, `crate_jax.cli.demo.page(...)` returns it.
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.cli.numbers import whole
    from crate_jax.evaluation.subject_arguments import add_subject_arguments

    add_subject_arguments(parser)
    parser.add_argument("--baseline", help="workdir of a second run, shown beside the first")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=whole(1, 65535), default=7860, help="port to listen on")
    parser.add_argument("--limit", type=whole(2), default=128, help="training images in which atoms look for patches")


def page(subject, baseline=None, *, limit=128):
    """The page, not launched.

    Args:
        subject, baseline: from `evaluation.subject`.
        limit: training images in which the patches that activate an atom most are looked up.

    Returns:
        A `gradio.Blocks`.
    """
    from PIL import Image

    from crate_jax.analysis.analyze import split_images
    from crate_jax.analysis.demo import Exhibit, build

    subjects = [one for one in (subject, baseline) if one is not None]
    exhibits = [Exhibit(one, split_images(one, one.config.data.train_split, limit)) for one in subjects]
    folder = subject.out / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    examples = []
    for number, pixels in enumerate(split_images(subject, subject.config.data.validation_split, 6)):
        examples.append(folder / f"example_{number}.png")
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(examples[-1])
    return build(exhibits, examples)


def run(arguments):
    """The command."""
    from crate_jax.analysis.demo import MOST_MEGABYTES
    from crate_jax.distributed.compilation_cache import keep_compiled
    from crate_jax.evaluation.subject import of_run, resolve

    subject = resolve(arguments, with_decoder=True)
    baseline = of_run(arguments.baseline) if arguments.baseline else None
    keep_compiled(subject.out)
    made = page(subject, baseline, limit=arguments.limit)
    print(f"http://{arguments.host}:{arguments.port}  (interrupt to stop)")
    made.launch(
        server_name=arguments.host, server_port=arguments.port, max_file_size=f"{MOST_MEGABYTES}mb",
        allowed_paths=[str(subject.out / "demo")], quiet=True, share=False,
    )  # fmt: skip
