"""The host never waits for the device but to log, and the state's buffers are reused."""

import types

import jax
import numpy as np

from crate_jax import create_model
from crate_jax.config import default_config, override
from crate_jax.distributed.signals import Preemption
from crate_jax.training.loop import train
from crate_jax.training.program import build_program
from crate_jax.training.state import TrainState


class Pending:
    """A number on a device: notes how many steps had been dispatched when somebody waited for it."""

    def __init__(self, value, step, dispatched, reads):
        self._value, self._step, self._dispatched, self._reads = value, step, dispatched, reads

    def __array__(self, dtype=None, copy=None):
        self._reads.setdefault(self._step, len(self._dispatched))
        return np.asarray(self._value)


def test_a_step_is_read_only_when_it_is_logged_and_after_the_next_one_is_under_way():
    dispatched, reads, saved = [], {}, []

    def run_step(state, batch, seed):
        dispatched.append(batch)
        step = len(dispatched)
        pending = [Pending(value, step, dispatched, reads) for value in (0.5, -1)]
        return state.replace(step=step), {"loss": pending[0], "bad_step": pending[1]}

    jitted = types.SimpleNamespace(lower=lambda *_: types.SimpleNamespace(compile=lambda: run_step))
    config = default_config()
    config.log_every_steps, config.batch_size, config.checkpoint.every_steps = 10, 8, 25
    mesh = types.SimpleNamespace(size=1, devices=np.array([types.SimpleNamespace(platform="cpu")]))
    model = create_model("crate_mae_tiny")
    program = types.SimpleNamespace(config=config, mesh=mesh, model=model, step=jitted, total_steps=40, seed=0)
    checkpoints = types.SimpleNamespace(save=lambda step, state: saved.append(step), wait=lambda: None)

    class Batches:
        wait_seconds, corrupt_examples, given = 0.0, 0, 0

        def __next__(self):
            Batches.given += 1
            return Batches.given

    state = TrainState(step=0, params={}, opt_state=(), ema=None, bad_step=-1)
    outcome = train(program, state, Batches(), checkpoints, [], Preemption())
    assert outcome.step == 40 and dispatched == list(range(1, 41)) and saved == [25, 40]
    assert reads == {1: 2, 10: 11, 20: 21, 30: 31, 40: 40}


def test_a_step_moves_nothing_but_its_batch_and_takes_over_the_state(tiny):
    program = build_program(override(tiny, [("optimizer.clip_norm", 1.0)]), 4000)
    image = np.zeros((16, 28, 28, 1), np.uint8)
    batch = jax.device_put({"image": image, "index": np.arange(16, dtype=np.int32)})
    state, seed = program.new_state(), program.seed
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert program.step.lower(state, batch, seed).compile().memory_analysis().alias_size_in_bytes >= size
    with jax.transfer_guard("disallow"):
        after, _ = jax.block_until_ready(program.step(state, batch, seed))
    assert jax.tree.leaves(state.params)[0].is_deleted() and not jax.tree.leaves(after.params)[0].is_deleted()
