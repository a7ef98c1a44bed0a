"""The program: `crate-jax COMMAND ...` and `python -m crate_jax COMMAND ...`."""

import os
import sys
import threading
import time

from crate_jax.cli.main import main

_SECONDS_TO_READ = 5.0


def program():
    """The console command: `cli.main.main`, ended even where a thread still waits for a disk or network."""
    code = main()
    deadline = time.monotonic() + _SECONDS_TO_READ
    while any(thread.name.startswith("grain-prefetch") for thread in threading.enumerate()):
        if time.monotonic() > deadline:  # Python would wait for the thread, for as long as its read takes
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        time.sleep(0.05)
    return code


if __name__ == "__main__":
    sys.exit(program())
