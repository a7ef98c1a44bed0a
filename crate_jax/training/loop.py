"""The loop: fetch a batch, dispatch a step, let observers watch; log, save, stop when preempted.

Steps are dispatched ahead: what step t measured is read after step t + 1 is under way, so the device is never idle for
the log. The loop knows observers, not evaluators.
"""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from crate_jax.distributed.mesh import one_at_a_time
from crate_jax.distributed.signals import StopRequested
from crate_jax.errors import UserError
from crate_jax.processes import of_all_hosts
from crate_jax.training.arithmetic import config_flops
from crate_jax.training.progress import compiled
from crate_jax.training.save_times import SaveTimes


class Observer:
    """Something that watches a run; a subclass says what of it."""

    def started(self, step):
        """Called once, when the step is compiled and the first batch is there.

        Args:
            step: optimizer steps finished so far.
        """

    def after_step(self, step, state, batch):
        """Called while the device computes a step.

        Args:
            step: optimizer steps finished.
            state: the state after it; the next step takes its buffers, so what is wanted of it is dispatched now.
            batch: what it was computed from.

        Returns:
            Scalars for this step's line in the log (on the device, or numbers), or None.
        """

    def logged(self, step, scalars):
        """Called with each line of the log, as plain numbers.

        Returns:
            Pictures for the logs of people, name to a PNG file as bytes, or None.
        """

    def pictured(self, step, pictures):
        """Called with the pictures that observers returned for a line."""

    def saving(self, step):
        """Called before a checkpoint is written; the step's line was logged before."""

    def close(self):
        """Called once, at the end, however the run ends."""


@dataclasses.dataclass
class Outcome:
    """How a run ended."""

    state: Any = dataclasses.field(repr=False)  # the last one
    step: int  # optimizer steps finished
    preempted: bool  # a signal ended it before the last step


class _Log:
    """Lines of the log; each is written when the step after it is under way, so the device is never idle for it.

    Attributes:
        pending: (step, scalars) of the line that is not written yet, or None.
    """

    def __init__(self, program, batches, checkpoints, observers, step):
        self._program, self._batches, self._checkpoints, self._observers = program, batches, checkpoints, observers
        self.pending = None
        # an interval begins when the last logged step was seen to be done
        self._time, self._step, self._waited = time.perf_counter(), step, batches.wait_seconds

    def write(self):
        if self.pending is None:
            return
        (step, scalars), self.pending = self.pending, None
        values = {name: np.asarray(value).item() for name, value in jax.device_get(scalars).items()}
        check_finite(values.pop("bad_step"), self._checkpoints)
        values |= self._speed(step)
        pictures = {}
        for observer in self._observers:
            pictures |= observer.logged(step, values) or {}
        for observer in self._observers if pictures else ():
            observer.pictured(step, pictures)

    def _speed(self, step):
        """Since the last line: images a second, and the fraction of the time that the slowest host waited for data.
        Beside them the corrupt pictures of all hosts so far."""
        now, waited = time.perf_counter(), self._batches.wait_seconds
        seconds = max(now - self._time, 1e-9)
        images_per_second = (step - self._step) * self._program.config.batch_size / seconds
        fraction = min(1.0, (waited - self._waited) / seconds)
        self._time, self._step, self._waited = now, step, waited
        fractions_and_counts_Px2 = of_all_hosts([fraction, self._batches.corrupt_examples])
        flops = config_flops(self._program.config, self._program.model) * images_per_second
        return {
            "images_per_second": images_per_second,
            "data_wait_fraction": float(fractions_and_counts_Px2[:, 0].max()),
            "tflops_per_device": flops / 1e12 / self._program.mesh.size,
            "corrupt_examples": int(fractions_and_counts_Px2[:, 1].sum()),
        }


def check_finite(bad_step, checkpoints):
    """Raises UserError where a loss or gradient was not finite, naming the step and the last good checkpoint."""
    if bad_step >= 0:
        steps = checkpoints.steps()
        last = f"the last good checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint yet"
        raise UserError(
            f"the loss or its gradient was not finite at step {bad_step}; nothing was saved since, {last}. "
            f"Lower optimizer.learning_rate, set optimizer.clip_norm=1.0, or compute in model.dtype=float32."
        )


def train(program, state, batches, checkpoints, observers, preemption):
    """Trains to the last step, or until preempted.

    Args:
        program: from `build_program`.
        state: where to begin.
        batches: an iterator over batches from the state's step on, with `wait_seconds` and `corrupt_examples`.
        checkpoints: a `Checkpoints`.
        observers: see `Observer`.
        preemption: a `distributed.signals.Preemption`.

    Returns:
        An `Outcome`.

    Raises:
        UserError: numbers that are not finite; a checkpoint that cannot be written; data that cannot be read.
    """
    config, total = program.config, program.total_steps
    start = finished = int(state.step)
    if start >= total:
        return Outcome(state, start, preempted=False)
    try:
        batch = _next(batches, preemption)
    except StopRequested:
        return Outcome(state, start, preempted=True)
    run_step = compiled(program.step, state, batch, program.seed)  # now, so that the clock does not count it
    waits = one_at_a_time(program.mesh)
    log, times = _Log(program, batches, checkpoints, observers, start), SaveTimes(config.checkpoint, start)
    preempted = False
    for observer in observers:
        observer.started(start)

    def save():
        check_finite(int(state.bad_step), checkpoints)
        log.write()  # first: a run that is killed while it saves has the line of every saved step
        for observer in observers:
            observer.saving(finished)
        checkpoints.save(finished, state)
        times.saved()

    for finished in range(start + 1, total + 1):
        state, metrics = run_step(state, batch, program.seed)
        last = finished == total
        scalars = {}
        if waits:
            jax.block_until_ready(metrics)
        for observer in observers:
            scalars |= observer.after_step(finished, state, batch) or {}
        if waits:
            jax.block_until_ready(scalars)
        log.write()
        if last or finished % config.log_every_steps == 0 or finished == 1 or scalars:
            log.pending = finished, {**metrics, **scalars}
        preempted, due = preemption.reached(finished), times.due(finished)
        if last or preempted or due:
            save()
        if last or preempted:
            break
        try:
            batch = _next(batches, preemption)
        except StopRequested:
            preempted = True
            if not due:
                save()
            break
    log.write()
    checkpoints.wait()
    return Outcome(state, finished, preempted=preempted and finished < total)


def _next(batches, preemption):
    with preemption.waiting_for_data():
        return next(batches)
