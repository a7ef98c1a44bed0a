"""The hosts of a run: joining them, and stopping together when one is told to (preemption).

SIGTERM is what Cloud TPU, Kubernetes and SLURM send before they take a machine away. A single process notices it by
itself; several agree on the step to stop at through JAX's coordination service.
"""

import signal
import threading

import jax


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
