"""Checkpoints, by Orbax: written in the background, never half, the newest few kept; restored onto any mesh.

A checkpoint has the items `params`, `ema` (where there is one) and `progress` (step and optimizer), so that evaluation
reads the parameters alone.
"""

import logging

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from crate_jax.errors import UserError, first_line
from crate_jax.processes import agreed, wait_for_all
from crate_jax.storage import absolute
from crate_jax.storage_errors import Failure
from crate_jax.training.whole_checkpoint import failure_behind, refuse_if_storage_failed, unreadable

logger = logging.getLogger(__name__)


def _told_elsewhere(record):
    """Orbax's threads log an error with its trace before it is raised here as a `UserError`."""
    return record.levelno < logging.ERROR


def _items(state):
    """What a checkpoint of a state holds, by item."""
    items = {"params": state.params, "progress": {"step": state.step, "opt_state": state.opt_state}}
    return items if state.ema is None else items | {"ema": state.ema}


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
        self._saving = None
        self._proven = False  # the folder keeps what is written: a checkpoint was found there

    @property
    def _manager(self):
        if self._opened is None:
            for name in ("absl", "asyncio"):
                logging.getLogger(name).addFilter(_told_elsewhere)
            self._opened = ocp.CheckpointManager(absolute(self.folder), options=self._options)
        return self._opened

    def steps(self):
        """Steps there is a whole checkpoint of, oldest first."""
        return sorted(self._manager.all_steps()) if self.folder.exists() else []

    def save(self, step, state):
        """Begins to write a checkpoint; the next save, or `close`, waits for it.

        The first one in a folder is waited for and read back, so that a path or store that does not keep what is
        written is noticed before hours were trained.

        Raises:
            UserError: it cannot be written (a full disk, say) or read back; older checkpoints stay.
        """
        items = _items(state)
        try:
            self.wait()  # raises an error of the save before as that save's
            self._saving = step
            self._proven = self._proven or bool(self.steps())
            self.folder.mkdir(parents=True, exist_ok=True)
            saves = {name: ocp.args.StandardSave(item) for name, item in items.items()}
            self._manager.save(step, args=ocp.args.Composite(**saves), force=True)
        except UserError:
            raise
        except Exception as error:
            self._raise_unwritten(error)
        if not self._proven:
            self._read_back(step, items)

    def _read_back(self, step, items):
        self.wait()
        there = Checkpoints(self.folder).steps()
        wrong = unreadable(self.folder / str(step), items) if step in there else "it is not found there"
        if wrong is not None:
            raise UserError(
                f"the checkpoint of step {step} was written to {self.folder} but cannot be read back ({wrong}); take "
                f"another --workdir."
            )
        self._proven = True

    def _raise_unwritten(self, error):
        if isinstance(error, jax.errors.JaxRuntimeError):  # a lost host, or want of memory
            raise error
        failure = failure_behind(error)
        if failure is None and not isinstance(error, ValueError | RuntimeError):
            raise error
        what = f"the checkpoint of step {self._saving} could not be written to {self.folder} (older ones are untouched)"
        raise (failure or Failure(first_line(error)[:300])).told(what) from error

    def wait(self):
        """Until the last checkpoint is on disk."""
        if self._opened is not None:
            try:
                self._opened.wait_until_finished()
            except Exception as error:
                self._raise_unwritten(error)

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
        self._clear_unfinished()
        broken = []
        while (step := agreed(max(set(self.steps()).difference(broken), default=-1))) >= 0:
            found = self._restore_whole(step, _items(abstract))
            if found is not None:
                self._set_aside(broken)
                return abstract.replace(
                    params=found["params"],
                    **found["progress"],
                    ema=found.get("ema"),
                    bad_step=jax.device_put(jnp.full((), -1, jnp.int32), abstract.bad_step.sharding),
                )
            broken.append(step)
        if broken:
            raise UserError(f"none of the checkpoints in {self.folder} can be read; take another --workdir.")
        return None

    def _restore_whole(self, step, items):
        """The items of one checkpoint; None, with a warning, for a broken one."""
        wrong = unreadable(self.folder / str(step), items) if jax.process_count() > 1 else None
        if wrong is None:
            restores = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
            try:
                return self._manager.restore(step, args=ocp.args.Composite(**restores))
            except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
                if jax.process_count() > 1 or isinstance(error, jax.errors.JaxRuntimeError):
                    raise  # the latter: want of memory, say, for which no checkpoint is set aside
                refuse_if_storage_failed(self.folder / str(step), error)
                wrong = first_line(error)
        logger.warning("the checkpoint of step %d cannot be read (%s); trying the one before", step, wrong[:300])
        return None

    def _clear_unfinished(self):
        """Removes what a killed process was writing: it never became a checkpoint, and takes room."""
        if jax.process_index() == 0 and self.folder.exists():
            for half in self.folder.glob("*.orbax-checkpoint-tmp*"):
                logger.warning("the checkpoint of step %s was never finished; removed", half.name.partition(".")[0])
                half.rmtree()
        wait_for_all("unfinished checkpoints are removed")

    def _set_aside(self, broken):
        """Renames broken checkpoints, so that the steps they stand for can be saved again; nothing is deleted."""
        if not broken:
            return
        if jax.process_index() == 0:
            for step in broken:
                (self.folder / str(step)).rename(self.folder / f"broken_{step}")
        wait_for_all("broken checkpoints are set aside")
        self._manager.reload()

    def restore_item(self, item, abstract, step=None):
        """(step, item) of a checkpoint, the item such as `params`; None is the newest step that can be read.

        Raises:
            UserError: there is no such checkpoint, or its storage does not answer.
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
                return step_now, restored[item]
            except jax.errors.JaxRuntimeError:  # a lost host, or memory: an older checkpoint is no better
                raise
            except Exception as error:
                refuse_if_storage_failed(self.folder / str(step_now), error)
                logger.warning("the checkpoint of step %d cannot be read: %s", step_now, str(error)[:200])
        raise UserError(f"the checkpoints in {self.folder} cannot be read, or belong to another network.")
