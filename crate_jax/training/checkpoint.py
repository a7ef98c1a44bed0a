"""Checkpoints, by Orbax: written in the background, never half, the newest few kept; restored onto any mesh.

A checkpoint has the items `params`, `ema` (where there is one) and `progress` (step and optimizer), so that evaluation
reads the parameters alone.
"""

import logging

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from crate_jax.errors import UserError

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie; made when the first one is saved.
        keep: the newest that are kept.
        keep_every_steps: and every one at a multiple of this.
    """

    def __init__(self, folder, *, keep=None, keep_every_steps=None):
        self.folder = epath.Path(folder)
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, keep_period=keep_every_steps, create=False, enable_async_checkpointing=True
        )
        self._opened = None

    @property
    def _manager(self):
        if self._opened is None:
            self._opened = ocp.CheckpointManager(self.folder.resolve(), options=self._options)
        return self._opened

    def steps(self):
        """Steps there is a whole checkpoint of, oldest first."""
        return sorted(self._manager.all_steps()) if self.folder.exists() else []

    def save(self, step, state):
        """Begins to write a checkpoint; the next save, or `close`, waits for it.

        Raises:
            UserError: it cannot be written (a full disk, say); older checkpoints stay.
        """
        items = {"params": state.params, "progress": {"step": state.step, "opt_state": state.opt_state}}
        if state.ema is not None:
            items["ema"] = state.ema
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            saves = {name: ocp.args.StandardSave(item) for name, item in items.items()}
            self._manager.save(step, args=ocp.args.Composite(**saves), force=True)
        except (OSError, ValueError) as error:
            raise self._unwritten(step, error) from error

    def _unwritten(self, step, error):
        return UserError(
            f"the checkpoint of step {step} could not be written to {self.folder} ({error}); older ones are untouched. "
            f"Free space there, and run the same command again."
        )

    def wait(self):
        """Until the last checkpoint is on disk."""
        if self._opened is not None:
            try:
                self._opened.wait_until_finished()
            except (OSError, ValueError) as error:
                raise self._unwritten("the last save", error) from error

    def close(self):
        """Waits, and lets go of the folder."""
        if self._opened is not None:
            self.wait()
            self._opened.close()
            self._opened = None

    def restore_newest(self, abstract):
        """The newest whole checkpoint as a state; a broken one is passed over with a warning.

        Args:
            abstract: a `TrainState` of shapes with the shardings to restore to; any mesh will do.

        Returns:
            A `TrainState`, or None where there is no checkpoint at all.

        Raises:
            UserError: there are checkpoints, and none can be read.
        """
        steps = self.steps()
        items = {"params": abstract.params, "progress": {"step": abstract.step, "opt_state": abstract.opt_state}}
        if abstract.ema is not None:
            items["ema"] = abstract.ema
        for step in reversed(steps):
            restores = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
            try:
                found = self._manager.restore(step, args=ocp.args.Composite(**restores))
            except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
                first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                logger.warning("the checkpoint of step %d cannot be read (%s); trying the one before", step, first)
                continue
            return abstract.replace(
                params=found["params"],
                step=found["progress"]["step"],
                opt_state=found["progress"]["opt_state"],
                ema=found["ema"] if abstract.ema is not None else None,
                bad_step=jax.device_put(jnp.full((), -1, jnp.int32), abstract.bad_step.sharding),
            )
        if steps:
            raise UserError(f"none of the checkpoints in {self.folder} can be read; take another --workdir.")
        return None

    def restore_item(self, item, abstract, step=None):
        """One item of a checkpoint, such as `params`.

        Raises:
            UserError: there is no such checkpoint.
        """
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            known = f"; there are {', '.join(map(str, steps))}" if steps else ""
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise UserError(f"{wanted} in {self.folder}{known}.")
        for step_now in [step] if step is not None else reversed(steps):
            try:
                restored = self._manager.restore(
                    step_now, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)})
                )
                return restored[item]
            except Exception as error:
                logger.warning("the checkpoint of step %d cannot be read: %s", step_now, str(error)[:200])
        raise UserError(f"the checkpoints in {self.folder} cannot be read, or belong to another network.")
