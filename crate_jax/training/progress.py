"""What a person sees at the start of a run: devices, folder, examples, and the time of compiling."""

import contextlib
import sys
import time

import jax

from crate_jax.distributed.devices import describe_devices, warn_of_unused_accelerator


def say(line):
    """Prints a line on stderr, on the first host only: in a terminal and in a notebook."""
    if jax.process_index() == 0:
        print_if_read(line, sys.stderr)


def print_if_read(line, stream):
    """Prints a line on a stream that may be closed: no run ends because nobody reads it any more (`| head`, ssh)."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=stream, flush=True)


def announce(program, folder, examples=None):
    """Says what a `Program` is about to run in a folder, and warns where an accelerator is left unused."""
    warn_of_unused_accelerator()
    say(f"devices: {describe_devices(program.mesh.devices.flat)}")
    what = f"{program.total_steps:,} steps of {program.config.batch_size:,} images"
    if examples is not None:
        what += f", {examples:,} training examples"
    say(f"run: {folder}: {what}")


def compiled(step, *arguments):
    """The jitted step compiled for these arguments; says how long that took."""
    begin = time.perf_counter()
    say("compiling the train step ...")
    run_step = step.lower(*arguments).compile()
    say(f"compiled in {time.perf_counter() - begin:.0f} s")
    return run_step


def in_notebook():
    """Whether a Jupyter kernel shows what is printed."""
    return "ipykernel" in sys.modules and type(sys.stderr).__module__.partition(".")[0] in ("ipykernel", "colab")
