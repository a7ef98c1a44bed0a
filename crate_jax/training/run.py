"""A training in a folder, from restoring to closing: what pre-training and fine-tuning have in common."""

import contextlib
import hashlib
import logging
import pathlib
import time

import jax

import crate_jax
from crate_jax.config import flatten
from crate_jax.distributed.compilation_cache import keep_compiled
from crate_jax.distributed.folder_lock import NAME, FolderLock, read_owner
from crate_jax.distributed.hosts import abandon
from crate_jax.distributed.signals import Preemption
from crate_jax.distributed.watchdog import Watchdog
from crate_jax.processes import same_on_all_hosts, wait_for_all
from crate_jax.storage import output_folder
from crate_jax.storage_errors import user_errors
from crate_jax.training import observers
from crate_jax.training.checkpoint import Checkpoints
from crate_jax.training.loop import Observer, train
from crate_jax.training.metrics_file import MetricsFile
from crate_jax.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

MAY_DIFFER = ("data.data_dir",)  # between hosts; what lies there is compared by `data.pipeline`
_SECONDS_TO_APPEAR = 20.0  # for a file that host 0 wrote, on a network file system


class _Begins(Observer):
    """Writes config.json when the first step is compiled: a run that is refused before leaves nothing."""

    def __init__(self, folder, config, source, lock):
        self._folder, self._config, self._source, self._lock = folder, config, source, lock

    def started(self, step):
        self._folder.begin(self._config, self._source, step)

    def saving(self, step):
        if self._lock is not None:  # the first process
            self._lock.check()
            with user_errors(f"--workdir={self._folder.path} cannot be written"):
                there = self._folder.config.exists()
            if not there:  # moved or deleted meanwhile: without it no checkpoint can be resumed
                self._folder.begin(self._config, self._source, step)


def run_training(
    program, workdir, make_batches, *, config=None, begin=None, watch=lambda folder, step: (), second_interrupt=None
):
    """Trains in a folder, or resumes the run that is there.

    Args:
        program: from `training.program.build_program`.
        workdir: the folder, as a person typed it.
        make_batches: function of the step to resume from to batches, see `training.loop.train`.
        config: that the folder is of; None is the program's.
        begin: function to the state at step 0; None is `program.new_state`.
        watch: function of (`RunFolder`, step) to further observers.
        second_interrupt: what a second Ctrl-C does, see `distributed.signals.Preemption`.

    Returns:
        (`training.loop.Outcome`, whether Ctrl-C ended it).

    Raises:
        UserError: settings, data or a folder that will not do.
    """
    config, lock = config or program.config, None
    with contextlib.ExitStack() as stack:
        try:
            folder = RunFolder(output_folder(workdir))
            with user_errors(f"--workdir={folder.path} cannot be used"):
                if jax.process_index() == 0:
                    lock = stack.enter_context(FolderLock(folder.path))
            _check_hosts(config, folder, lock)
            folder.check(config)
            keep_compiled(folder.path)
            settings = config.checkpoint
            checkpoints = Checkpoints(
                folder.checkpoints, keep=settings.keep, keep_every_steps=settings.keep_every_steps
            )
            stack.callback(checkpoints.close)
            state = checkpoints.restore_newest(program.abstract)
            if state is None:
                logger.info("no checkpoint in %s yet: beginning at step 1 of %d", folder.path, program.total_steps)
                state = (begin or program.new_state)()
            step = int(state.step)
            if step:
                logger.info("resuming at step %d of %d in %s", step, program.total_steps, folder.path)
            batches = make_batches(step)
            stack.callback(batches.close)
            if step and jax.process_index() == 0:
                folder.compare_data(batches.source)
            watching = [_Begins(folder, config, batches.source, lock), Watchdog(config.distributed.stall_seconds)]
            stack.callback(watching[1].close)
            for observer in (*watch(folder, step), *_standard(config, folder, step, program.total_steps)):
                watching.append(observer)
                stack.callback(observer.close)
            preemption = stack.enter_context(Preemption(second_interrupt))
            began = time.perf_counter()
            outcome = train(program, state, batches, checkpoints, watching, preemption)
        except BaseException as error:
            if lock is not None and jax.process_count() > 1:
                lock.release()  # the process ends in the next line
            abandon(error)  # an orderly end would wait for the other hosts, which wait for this one
            raise
    if outcome.preempted:
        what = "interrupted" if preemption.interrupted else "preempted"
        saved = "checkpoint saved" if outcome.step else "nothing to save yet"
        logger.info(
            "%s at step %d of %d, %s; rerun the same command to resume: %s",
            *(what, outcome.step, program.total_steps, saved, folder.path),
        )
    else:
        logger.info("finished at step %d after %.0f s: %s", outcome.step, time.perf_counter() - began, folder.path)
    return outcome, preemption.interrupted


def _standard(config, folder, step, total_steps):
    """The observers of every training; the first process writes, the others only measure."""
    made = [observers.Profiler(folder.path, config.profile_at_step)] if config.profile_at_step else []
    if jax.process_index() == 0:
        made.append(MetricsFile(folder.metrics))
        settings = {name: str(value) for name, value in flatten(config).items()}
        made += observers.logs(config.logging, folder.path, settings)
        made.append(observers.Progress(total_steps, step))
    return made


def _check_hosts(config, folder, lock):
    """All hosts have one config, one code and one folder.

    Raises:
        UserError: naming what differs.
    """
    if jax.process_count() == 1:
        return
    wait_for_all("the folder is locked")
    seen, deadline = lock.nonce if lock else None, time.monotonic() + _SECONDS_TO_APPEAR
    while seen is None and time.monotonic() < deadline:
        seen = (read_owner(folder.path / NAME) or {}).get("nonce")
        time.sleep(0.0 if seen else 0.5)
    leaves = {name: repr(value) for name, value in flatten(config).items() if name not in MAY_DIFFER}
    same_on_all_hosts(leaves | {"the version of crate_jax": _version(), "the version of jax": jax.__version__})
    same_on_all_hosts(
        {"nonce": seen},
        f"--workdir={folder.path} is not the folder that host 0 has under this name; name one that all hosts share, in "
        f"a bucket or on a network file system.",
    )


def _version():
    """The package's version and a hash of its source."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(crate_jax.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return f"{crate_jax.__version__}+{digest.hexdigest()[:8]}"
