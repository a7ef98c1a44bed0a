"""The loop: fetch a batch, dispatch a step, let observers watch; log, save, stop when told.

Steps are dispatched ahead: what step t measured is read after step t + 1 is under way, so the device never waits for
the log. The loop knows observers, not evaluators.
"""

import dataclasses
import time
from typing import Any, Protocol

import jax
import numpy as np

from crate_jax.errors import UserError
from crate_jax.models.flops import flops_per_image
from crate_jax.training.progress import compiled


class Observer(Protocol):
    """Something that watches a run."""

    def after_step(self, step, state, batch):
        """Called when a step is under way.

        Args:
            step: optimizer steps finished.
            state: the state after it; the next step takes its buffers, so what is wanted of it is dispatched now.
            batch: what it was computed from.

        Returns:
            Scalars for this step's line in the log (on the device, or numbers), or None.
        """

    def logged(self, step, scalars):
        """Called with each line of the log, as plain numbers."""

    def close(self):
        """Called once, at the end, however the run ends."""


@dataclasses.dataclass
class Outcome:
    """How a run ended.

    Attributes:
        state: the last state.
        step: optimizer steps finished.
        preempted: it was told to stop before the last step.
    """

    state: Any
    step: int
    preempted: bool


class _Clock:
    """Images a second, and the fraction of the time the loop waited for data, since the last line."""

    def __init__(self, program, batches, step):
        self._program, self._batches = program, batches
        # a copy of a number the state carries: an interval begins when the last logged step was seen to be done
        self._time, self._step, self._waited = time.perf_counter(), step, batches.wait_seconds

    def read(self, step):
        now, waited = time.perf_counter(), self._batches.wait_seconds
        seconds = max(now - self._time, 1e-9)
        images_per_second = (step - self._step) * self._program.config.batch_size / seconds
        fraction = min(1.0, (waited - self._waited) / seconds)
        self._time, self._step, self._waited = now, step, waited
        flops = flops_per_image(self._program.model) * images_per_second
        return {
            "images_per_second": images_per_second,
            "data_wait_fraction": fraction,
            "tflops_per_device": flops / 1e12 / self._program.mesh.size,
        }


def check_finite(bad_step, checkpoints):
    """Ends a run whose numbers are no longer numbers.

    Raises:
        UserError: naming the step, and the checkpoint that is still good.
    """
    if bad_step >= 0:
        steps = checkpoints.steps()
        last = f"the last good checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint yet"
        raise UserError(
            f"the loss or its gradient was not finite at step {bad_step}; nothing was saved since, {last}. "
            f"Lower optimizer.learning_rate, set optimizer.clip_norm=1.0, or compute in model.dtype=float32."
        )


def train(program, state, batches, checkpoints, observers, preemption):
    """Trains to the last step, or until told to stop.

    Args:
        program: from `build_program`.
        state: where to begin.
        batches: an iterator over batches from the state's step on, with `wait_seconds` and `corrupt_examples`.
        checkpoints: a `Checkpoints`.
        observers: see `Observer`.
        preemption: a `distributed.hosts.Preemption`.

    Returns:
        An `Outcome`.

    Raises:
        UserError: numbers that are not finite; a checkpoint that cannot be written; data that cannot be read.
    """
    config, total = program.config, program.total_steps
    start = finished = int(state.step)
    if start >= total:
        return Outcome(state, start, preempted=False)
    batch = next(batches)
    run_step = compiled(program.step, state, batch)  # now, so that the clock does not count it
    # Simulated devices share one pool of threads: two programs with collectives under way at once can wait for each
    # other for ever. So there every step is finished before the next is dispatched; one device needs no such care.
    one_at_a_time = program.mesh.size > 1 and program.mesh.devices.flat[0].platform == "cpu"
    clock, pending, preempted = _Clock(program, batches, start), None, False

    def write(line):
        step, scalars = line
        values = {name: np.asarray(value).item() for name, value in jax.device_get(scalars).items()}
        check_finite(values.pop("bad_step"), checkpoints)
        values |= clock.read(step) | {"corrupt_examples": batches.corrupt_examples}
        for observer in observers:
            observer.logged(step, values)

    for finished in range(start + 1, total + 1):
        state, metrics = run_step(state, batch)
        last = finished == total
        scalars = {}
        if one_at_a_time:
            jax.block_until_ready(metrics)
        for observer in observers:
            scalars |= observer.after_step(finished, state, batch) or {}
        if one_at_a_time:
            jax.block_until_ready(scalars)
        if pending is not None:
            write(pending)
            pending = None
        if last or finished % config.log_every_steps == 0 or finished == 1 or scalars:
            pending = (finished, {**metrics, **scalars})
        preempted = preemption.reached(finished)
        if last or preempted or finished % config.checkpoint.every_steps == 0:
            check_finite(int(state.bad_step), checkpoints)
            checkpoints.save(finished, state)
        if last or preempted:
            break
        batch = next(batches)
    if pending is not None:
        write(pending)
    checkpoints.wait()
    return Outcome(state, finished, preempted=preempted and finished < total)
