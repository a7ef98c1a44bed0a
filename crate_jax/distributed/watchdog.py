"""A run that makes no progress ends itself: a host can be alive, answer every heartbeat, and be stuck all the same.

No step for so many seconds, and each thread's stack goes to the log, so that one can see where it hung. Time in which
the process was stopped (Ctrl-Z, SIGSTOP, a scheduler's suspension) does not count.
"""

import faulthandler
import os
import signal
import sys
import threading
import time

from crate_jax.errors import LOST_HOST

# seconds after which faulthandler ends a process whose Python threads cannot run either (its exit code is 1 always)
_BACKSTOP = 60.0
_GAP = 5.0  # seconds that the watching thread did not run, beyond its pause: the process was stopped


def _with_descriptor(stream):
    """The stream, if faulthandler can write to it; a notebook's cannot be written to from C."""
    try:
        stream.fileno()
    except (AttributeError, OSError, ValueError):
        return sys.__stderr__
    return stream


class Watchdog:
    """An observer of the loop (`training.loop.Observer`): every step counts as progress.

    Compilation before the first step, and evaluations between steps, count as no progress; allow for them.

    Args:
        seconds: without a step until the run ends with `LOST_HOST`; 0: never.
        stream: where stacks go; None: standard error.
    """

    def __init__(self, seconds, stream=None):
        self._seconds, self._stream = seconds, _with_descriptor(stream or sys.stderr)
        self._step, self._last = None, time.monotonic()
        self._closed, self._arming, self._before = threading.Event(), threading.Lock(), None
        if seconds:
            at_prompt = getattr(signal, "SIGTSTP", None) and signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL
            if at_prompt and threading.current_thread() is threading.main_thread():
                self._before = signal.signal(signal.SIGTSTP, self._stop)
            threading.Thread(target=self._watch, name="crate-jax watchdog", daemon=True).start()

    def started(self, step):
        """See `training.loop.Observer`."""
        self._last = time.monotonic()

    def after_step(self, step, state, batch):
        """See `training.loop.Observer`."""
        self._step, self._last = step, time.monotonic()

    def logged(self, step, scalars):
        """See `training.loop.Observer`."""

    def pictured(self, step, pictures):
        """See `training.loop.Observer`."""

    def saving(self, step):
        """See `training.loop.Observer`."""

    def close(self):
        """See `training.loop.Observer`."""
        self._closed.set()
        if self._before is not None:
            signal.signal(signal.SIGTSTP, self._before)

    def _watch(self):
        pause, seen = min(1.0, self._seconds / 4), time.monotonic()
        while not self._closed.wait(pause):
            with self._arming:
                faulthandler.dump_traceback_later(self._seconds + _BACKSTOP, exit=True, file=self._stream)
            now = time.monotonic()
            if now - seen > pause + _GAP:
                self._last += now - seen
            seen = now
            if now - self._last > self._seconds:
                self._end()
        faulthandler.cancel_dump_traceback_later()

    def _stop(self, _number, _frame):
        """Ctrl-Z: without its timer, which would find its time passed as soon as the process goes on."""
        with self._arming:
            faulthandler.cancel_dump_traceback_later()
            os.kill(os.getpid(), signal.SIGSTOP)

    def _end(self):
        where = "before the first step" if self._step is None else f"after step {self._step}"
        print(
            f"crate-jax: no progress for {self._seconds:g} s (distributed.stall_seconds) {where}; the stacks of all "
            f"threads follow. Run the same command again to resume from the last checkpoint.",
            file=self._stream,
            flush=True,
        )
        faulthandler.dump_traceback(self._stream, all_threads=True)
        os._exit(LOST_HOST)
