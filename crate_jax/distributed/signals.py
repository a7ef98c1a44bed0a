"""SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal is closed), from the first import to the last checkpoint.

    while the program starts     noted, so that no import is torn apart; the start is then given up, on all hosts
    while a command computes     SIGINT ends it; the others do at once; of `compile` all do (`ending_at_once`)
    while a run trains           the first one saves a checkpoint and ends the run, the second ends it at once

SIGTERM is what Cloud TPU, Kubernetes and SLURM send before they take a machine away. SIGHUP stays ignored under nohup.
"""

import contextlib
import logging
import os
import signal
import sys
import threading

logger = logging.getLogger(__name__)

INTERRUPTED = 130
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_SECONDS_TO_UNWIND = 5.0


def stopping(*but):
    """The signals that stop a run, less those of `but`, and less SIGHUP where it is ignored."""
    return [
        number
        for number in STOPPING
        if number not in but and (number in STOPPING[:2] or signal.getsignal(number) is not signal.SIG_IGN)
    ]


@contextlib.contextmanager
def ending_at_once():
    """A context in which a signal ends the process at once, with a line.

    Even while a compiler runs and no handler can. A thread waits for signals, so that no library's handler sees them:
    libtpu's prints stacks. To be entered before the library is loaded, whose threads inherit that they are blocked.
    """
    if not hasattr(signal, "sigtimedwait"):  # macOS
        yield
        return
    numbers, left = set(stopping()), threading.Event()

    def wait():
        while not left.is_set():
            if found := signal.sigtimedwait(numbers, 0.2):
                name = "interrupted" if found.si_signo == signal.SIGINT else signal.Signals(found.si_signo).name
                print(f"crate-jax: {name}", file=sys.stderr, flush=True)
                os._exit(128 + found.si_signo)

    before, thread = signal.pthread_sigmask(signal.SIG_BLOCK, numbers), threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequested(Exception):
    """Raised in a run that waits for data when a signal arrives."""


class ProgramSignals:
    """A context around a whole command: see the module's table, first two lines.

    Attributes:
        noted: number of the first signal, or None.
    """

    def __init__(self):
        self.noted, self._before, self._starting = None, {}, True

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in stopping()}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def interrupted(self):
        """Whether Ctrl-C was pressed."""
        return self.noted == signal.SIGINT

    def _handle(self, number, _frame):
        self.noted = self.noted or number
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        if not self._starting and number == signal.SIGINT:
            # an import or a library's callback may swallow the exception
            timer = threading.Timer(_SECONDS_TO_UNWIND, self._end)
            timer.daemon = True
            timer.start()
            raise KeyboardInterrupt

    def _end(self):
        with contextlib.suppress(OSError, ValueError):
            print("crate-jax: interrupted", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)

    def started(self):
        """From now on a signal ends the command; one that came before does so now.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
            SystemExit: another one came.
        """
        self._starting = False
        if self.noted == signal.SIGINT:
            raise KeyboardInterrupt
        if self.noted is not None:
            raise SystemExit(128 + self.noted)
        for number in self._before.keys() - {signal.SIGINT}:
            signal.signal(number, signal.SIG_DFL)

    def joined(self):
        """As `started`, where JAX's coordination service has taken SIGTERM over, and what was noted is dealt with."""
        self._starting, self.noted = False, None


class Preemption:
    """Was the run preempted or interrupted? Asked after every step; all hosts get the same answer at the same step.

    A single process notices signals by itself; several agree on the step to stop at through JAX's coordination service.

    Args:
        second: what a second Ctrl-C does: a handler, as `signal.signal` takes it; None: what it did before.

    Attributes:
        interrupted: it was Ctrl-C, not another signal.
    """

    def __init__(self, second=None):
        self._second, self._asked, self._waiting, self._before = second, threading.Event(), False, {}
        self.interrupted = False

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            # several processes: JAX's service has its own handler of SIGTERM
            numbers = stopping() if _alone() else stopping(signal.SIGTERM)
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _handle(self, number, _frame):
        self.interrupted = number == signal.SIGINT
        again = self._second if self._second is not None else self._before[number]
        signal.signal(number, again or signal.SIG_DFL)
        name = "Ctrl-C" if self.interrupted else signal.Signals(number).name
        logger.warning("%s: saving a checkpoint after this step%s", name, "; again ends at once" * self.interrupted)
        if not _alone():
            os.kill(os.getpid(), signal.SIGTERM)  # the service tells the other hosts
            return
        self._asked.set()
        if self._waiting:
            raise StopRequested

    @contextlib.contextmanager
    def waiting_for_data(self):
        """Within it a signal raises `StopRequested`: a loader that hangs must not keep a run from ending."""
        if self._asked.is_set():
            raise StopRequested
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def reached(self, step):
        """True if the run has to save and stop after this step."""
        if _alone():
            return self._asked.is_set()
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)


def _alone():
    import jax

    return jax.process_count() == 1
