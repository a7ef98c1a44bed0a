"""When to save: every so many steps, and every so many minutes; all hosts decide alike."""

import time

from crate_jax.processes import agreed

_LOOK_SECONDS = 5.0  # between looks at process 0's clock


class SaveTimes:
    """Says after which steps a checkpoint is due.

    Clocks of several hosts differ by more than a step takes, so process 0's counts. The others ask for it, which takes
    a collective, only every few seconds: at a step that process 0 named the time before.

    Args:
        settings: the config's `checkpoint`.
        step: that the run goes on at.
        clock: a function to seconds.
    """

    def __init__(self, settings, step, clock=time.monotonic):
        self._every, self._clock = settings.every_steps, clock
        self._seconds = 60 * settings.every_minutes
        self._saved = self._looked = clock()
        self._step, self._next_look = step, step + 1

    def due(self, step):
        """Whether a checkpoint is due after this step; to be asked at every step, by every host."""
        by_time = False
        if self._seconds and step >= self._next_look:
            now = self._clock()
            seconds_a_step = max(now - self._looked, 1e-6) / (step - self._step)
            pause = max(1, round(min(_LOOK_SECONDS, self._seconds / 4) / seconds_a_step))
            # one number for both: how many steps to the next look, below 0 where a checkpoint is due
            answer = agreed(-pause if now - self._saved >= self._seconds else pause)
            by_time, self._next_look = answer < 0, step + abs(answer)
            self._looked, self._step = now, step
        return by_time or step % self._every == 0

    def saved(self):
        """A checkpoint was written: the minutes count from now."""
        self._saved = self._clock()
