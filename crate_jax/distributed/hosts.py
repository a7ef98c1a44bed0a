"""The hosts of a run: joining them, stopping together when one is told to, and never waiting for one that is gone.

SIGTERM is what Cloud TPU, Kubernetes and SLURM send before they take a machine away. A single process notices it by
itself; several agree on the step to stop at through JAX's coordination service. Each says to that service that it is
alive; one that says nothing for `distributed.lost_host_seconds` is lost, and the service ends the others. One that
fails says why and leaves at once: an orderly end would wait, at the next collective, for hosts that wait for it.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import traceback

import jax

from crate_jax.distributed.cluster import find_cluster
from crate_jax.errors import UserError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def joined(config):
    """Joins the other processes of a run, if there are any; to be entered before jax is first used.

    Args:
        config: its `distributed` is used.

    Raises:
        UserError: the processes do not find each other.
    """
    cluster = find_cluster()
    if cluster is None:
        yield
        return
    try:
        jax.distributed.initialize(**cluster, heartbeat_timeout_seconds=config.distributed.lost_host_seconds)
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"the processes of this run did not find each other ({_first_line(error)}); start all of them at the same "
            f"time, with the same coordinator."
        ) from error
    if jax.process_index() == 0:
        logger.info("%d processes with %d devices", jax.process_count(), jax.device_count())
    try:
        yield
    except BaseException as error:
        abandon(error)
        raise
    jax.distributed.shutdown()


def abandon(error):
    """Ends a process that cannot go on while others wait for it: says why, and exits with 1. Alone, it does nothing.

    Args:
        error: the exception that stopped it.
    """
    if jax.process_count() == 1:
        return
    code = 1
    if isinstance(error, UserError):
        sentence = str(error)
    elif isinstance(error, KeyboardInterrupt):
        sentence, code = "interrupted", 130
    elif _is_about_another_host(error):
        sentence = (
            f"another host of this run was lost ({_first_line(error)}); its own log says why. Start the run again: it "
            f"goes on from its last checkpoint."
        )
    else:
        traceback.print_exception(error)
        sentence = "this host failed, and leaves the others"
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.write(f"crate-jax: host {jax.process_index()}: {sentence}\n")
        sys.stderr.flush()
    os._exit(code)


_SIGNS: tuple[str, ...] = (
    "connection closed",
    "connection reset",
    "connection refused",
    "broken pipe",
    "gloo",
    "heartbeat",
)
_SIGNS += ("coordination service", "coordinationservice", "another task", "unavailable", "socket closed", "barrier")


def _is_about_another_host(error):
    """XLA's collectives and JAX's coordination service say so in words only."""
    text = str(error).lower()
    return isinstance(error, RuntimeError | ValueError) and any(sign in text for sign in _SIGNS)


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def wait_for_all(what):
    """Until every process is here; alone, at once.

    Args:
        what: a name for the place, the same in all of them.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def agreed(value):
    """Process 0's whole number, in every process.

    Args:
        value: an int; -1 is commonly "none".
    """
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(value))


class Preemption:
    """Was the run told to stop? Asked after every step; all hosts get the same answer at the same step."""

    def __init__(self):
        self._told = threading.Event()
        self._before = None
        self._installed = False

    def __enter__(self):
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, lambda *_: self._told.set())
            self._installed = True
        return self

    def __exit__(self, *_):
        if self._installed:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def reached(self, step):
        """True if the run has to save and stop after this step."""
        if jax.process_count() == 1:
            return self._told.is_set()
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)
