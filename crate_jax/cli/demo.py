"""Opens a page on which a masked picture is completed and every layer can be looked into (extra: demo).

    crate-jax demo --workdir=workdirs/quickstart
    crate-jax demo --workdir=workdirs/quickstart --baseline=workdirs/another
    crate-jax demo --checkpoint=photographs
    crate-jax demo --checkpoint=crate_base.pth --config=imagenet_base

The page is served on this machine only (127.0.0.1); --host=0.0.0.0 opens it to the network. In a notebook, Colab
included, `crate_jax.cli.demo.page(...)` returns it.
"""

import logging
import pathlib
import socket
import tempfile
import threading

from crate_jax.errors import UserError, first_line

logger = logging.getLogger(__name__)


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.cli.arguments import add_subject_arguments, whole

    add_subject_arguments(parser, out="folder of compiled programs (default: the workdir, or a temporary folder)")
    parser.add_argument("--baseline", help="workdir of a second run, shown beside the first")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=whole(1, 65535), default=7860, help="port to listen on")
    parser.add_argument("--limit", type=whole(2), default=128, help="training images in which atoms look for patches")


def check_address(host, port):
    """Refuses an address that cannot be listened on, before minutes of compiling.

    Raises:
        UserError: another program has it, or this machine does not.
    """
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, OverflowError, TypeError, ValueError) as error:  # TypeError: a name that is not UTF-8
        raise UserError(
            f"--host={host} --port={port} cannot be listened on ({first_line(error)}); name others."
        ) from error


def page(subject, baseline=None, *, limit=128):
    """The page, not launched.

    Args:
        subject, baseline: from `evaluation.subject`.
        limit: training images in which the patches that activate an atom most are looked up.

    Returns:
        A `gradio.Blocks`.
    """
    from crate_jax.analysis.demo_page import build

    return build(exhibits_of(subject, baseline, limit), examples_of(subject))


def exhibits_of(subject, baseline, limit):
    """An `Exhibit` for each network."""
    from crate_jax.analysis.analyze import spread_images
    from crate_jax.analysis.demo import Exhibit, short_names

    subjects = [one for one in (subject, baseline) if one is not None]
    return [
        Exhibit(one, spread_images(one, one.config.data.train_split, limit), name)
        for one, name in zip(subjects, short_names([one.source for one in subjects]), strict=True)
    ]


def examples_of(subject, count=8):
    """Held-out pictures to choose from, a class each where there are so many: those of most contrast.

    Returns:
        (path, class name) pairs, in a temporary folder.
    """
    import numpy as np
    from PIL import Image

    from crate_jax.evaluation.reconstruct import of_split

    images, _, names = of_split(subject, subject.config.data.validation_split, 256)
    order = np.argsort(-images.std((1, 2, 3)), kind="stable")  # a crop of plain sky shows nothing
    first = {}
    for index in order:
        first.setdefault(names[index], index)
    chosen = list(first.values()) if len(first) >= count else order
    folder = pathlib.Path(tempfile.mkdtemp(prefix="crate-jax-"))
    found = []
    for number, index in enumerate(chosen[:count][::-1]):
        pixels = images[index]
        found.append((folder / f"example_{number}.png", names[index]))
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(found[-1][0])
    return found


def run(arguments):
    """The command."""
    check_address(arguments.host, arguments.port)
    from crate_jax.analysis.demo import MOST_MEGABYTES
    from crate_jax.analysis.demo_page import build
    from crate_jax.distributed.compilation_cache import keep_compiled
    from crate_jax.evaluation.subject import of_run, resolve

    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks itself whether it is there
    if arguments.checkpoint and not arguments.out:  # it writes compiled programs only
        arguments.out = tempfile.mkdtemp(prefix="crate-jax-")
    subject = resolve(arguments, with_decoder=True)
    baseline = of_run(arguments.baseline) if arguments.baseline else None
    keep_compiled(subject.out)
    exhibits = exhibits_of(subject, baseline, arguments.limit)
    made = build(exhibits, examples_of(subject))
    waiting = [program for programs in zip(*(one.programs() for one in exhibits), strict=False) for program in programs]
    logger.info("compiling; the first start takes a while")
    for program in waiting[: 2 * len(exhibits)]:
        program()
    stop = threading.Event()
    rest = threading.Thread(target=_compile, args=(waiting[2 * len(exhibits) :], stop), daemon=True)
    rest.start()
    print(f"http://{arguments.host}:{arguments.port}  (interrupt to stop)")
    try:
        made.launch(
            server_name=arguments.host, server_port=arguments.port, max_file_size=f"{MOST_MEGABYTES}mb", quiet=True,
            share=False,
        )  # fmt: skip
    finally:
        stop.set()
        rest.join()  # a compilation that the end of the program cuts off ends in a traceback


def _compile(programs, stop):
    """Other sizes of masks, while the page is open already."""
    for program in programs:
        if stop.is_set():
            return
        program()
