"""What watches a run beside `metrics.jsonl`: logs to look at, progress in the terminal, layers, a profiler."""

import concurrent.futures
import contextlib
import logging
import pathlib
import shutil
import sys
import tempfile
import time
import warnings

import jax
from tqdm import TqdmWarning, tqdm

from crate_jax.distributed.sharding import replicated
from crate_jax.errors import first_line
from crate_jax.storage import is_remote
from crate_jax.training.loop import Observer
from crate_jax.training.progress import in_notebook, print_if_read

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)  # it wants ipywidgets, which this bar does not use
    from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger(__name__)


class Logs(Observer):
    """Writes lines and pictures to a log that people look at (TensorBoard, Weights & Biases), from a thread.

    Where it cannot be written, one warning says so and the run goes on; `metrics.jsonl` has every number.

    Args:
        name: of the log, for the warning.
        open_writer: function of the step to an object with `write_hparams`, `write_scalars`, `write_pictures` and
            `close`, such as `tensorboard_events.EventWriter`.
        hyperparameters: name to string, number or bool.
    """

    def __init__(self, name, open_writer, hyperparameters):
        self._name, self._open, self._hyperparameters, self._writer = name, open_writer, hyperparameters, None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, name)

    def started(self, step):
        def begin():
            self._writer = self._open(step)
            self._writer.write_hparams(self._hyperparameters)

        self._do(begin)

    def logged(self, step, scalars):
        self._do(lambda: self._writer and self._writer.write_scalars(step, scalars))

    def pictured(self, step, pictures):
        self._do(lambda: self._writer and self._writer.write_pictures(step, pictures))

    def close(self):
        self._do(lambda: self._writer and self._writer.close())
        self._thread.shutdown()

    def _do(self, work):
        def guarded():
            try:
                work()
            except Exception as error:  # a full disk, a bucket's or server's refusal: the writer's own errors are many
                self._writer = None
                logger.warning("nothing more is written to %s: %s", self._name, first_line(error)[:200])

        self._thread.submit(guarded)


def logs(names, folder, hyperparameters):
    """The observers of the config's `logging`, whose names are "tensorboard" and "wandb".

    Raises:
        UserError: wandb is not installed.
    """
    from crate_jax.training.tensorboard_events import EventWriter
    from crate_jax.training.wandb_run import WandbRun, wandb_library

    writers = {"tensorboard": lambda step: EventWriter(folder), "wandb": lambda step: WandbRun(folder, step)}
    if "wandb" in names:
        wandb_library()
    return [Logs(name, writers[name], hyperparameters) for name in names]


class Progress(Observer):
    """A bar in a terminal or a notebook, a line per logged step in a file, with a forecast of the time that is left.

    Time counts from the first step on, so compilation is in no forecast.

    Args:
        total_steps: of the run.
        first_step: that it begins or resumes at.
        stream: None is stderr.
        bar: None: in a notebook, and where the stream is a terminal.
    """

    def __init__(self, total_steps, first_step, stream=None, bar=None):
        self._total, self._first, self._stream = total_steps, first_step, stream or sys.stderr
        self._wants_bar = in_notebook() or self._stream.isatty() if bar is None else bar
        self._bar = self._begin = None
        self._redirected = contextlib.ExitStack()

    def after_step(self, step, state, batch):
        if self._begin is None:
            self._begin, self._first = time.perf_counter(), step
            if self._wants_bar:
                self._redirected.enter_context(logging_redirect_tqdm())  # a warning does not cut the bar
                self._bar = tqdm(
                    total=self._total, initial=step, file=self._stream, unit="step", mininterval=0.5, dynamic_ncols=True
                )
        elif self._bar is not None:
            self._bar.update(step - self._bar.n)

    def logged(self, step, scalars):
        numbers = f"loss {scalars['loss']:.4f}, {scalars['images_per_second']:.0f} images/s"
        if self._bar is not None:
            self._bar.set_postfix_str(numbers, refresh=False)
            return
        left = ""
        if step > self._first:
            elapsed = time.perf_counter() - self._begin
            left = f", {_clock(elapsed / (step - self._first) * (self._total - step))} left"
        waited = f"{scalars['data_wait_fraction']:.0%} of the time waiting for data"
        print_if_read(f"step {step}/{self._total}: {numbers}, {waited}{left}", self._stream)

    def close(self):
        if self._bar is not None:
            self._bar.close()
        self._redirected.close()


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def on_one_device(mesh):
    """A function that brings arrays, however they are sharded over the mesh, whole onto one device of this host.

    What watches a run computes there: it is little work, and XLA's simulated CPU devices were seen to wait for each
    other without end in a program with loops and branches like the measurement's.
    """
    gather = jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))

    def bring(arrays):
        return jax.tree.map(lambda array: array.addressable_shards[0].data, jax.block_until_ready(gather(arrays)))

    return bring


class Layers(Observer):
    """Measures the layers on part of the batch, every so many steps: `nonzero/encoder_00`, `coding_rate/encoder_00`.

    Args:
        measure: (sharded params, images uint8 on one device, `on_one_device`) to a dictionary of name to scalar. It
            brings only what it needs at a time: all parameters together need not fit on a device.
        mesh: that the run is on.
        every: steps between measurements; the first and the last step are measured too.
        images: how many of the batch.
        total_steps: of the run.
        alarms: function of the scalars of a logged step, name to number, to sentences.
    """

    def __init__(self, measure, *, mesh, every, images, total_steps, alarms):
        self._first = jax.jit(lambda images_BxHxWxC: images_BxHxWxC[:images], out_shardings=replicated(mesh))
        self._here = on_one_device(mesh)
        self._measure = measure
        self._every, self._total, self._alarms = every, total_steps, alarms
        self._said = set()

    def after_step(self, step, state, batch):
        if step % self._every == 0 or step in (1, self._total):
            few_BxHxWxC = jax.block_until_ready(self._first(batch["image"]))
            return self._measure(state.params, self._here(few_BxHxWxC), self._here)
        return None

    def logged(self, step, scalars):
        for sentence in self._alarms(scalars):
            if sentence not in self._said:  # once is enough
                self._said.add(sentence)
                logger.warning("step %d: %s", step, sentence)


class Profiler(Observer):
    """A trace of five steps from `step` on, for TensorBoard's profile tab. Where there is none, a warning says why.

    The profiler itself writes to local disks only.
    """

    def __init__(self, folder, step):
        self._folder, self._first, self._local = folder, step, None

    def started(self, step):
        if step == self._first - 1:
            with self._warned():
                local = tempfile.mkdtemp(prefix="crate_jax_trace_") if is_remote(self._folder) else str(self._folder)
                jax.profiler.start_trace(local)
                self._local = local

    def after_step(self, step, state, batch):
        if step == self._first - 1:
            jax.block_until_ready(state)
            self.started(step)
        elif self._local and step >= self._first + 4:
            jax.block_until_ready(state)
            self.close()

    def close(self):
        local, self._local = self._local, None
        if local is None:
            return
        with self._warned():
            jax.profiler.stop_trace()
            if is_remote(self._folder):
                for file in [path for path in pathlib.Path(local).rglob("*") if path.is_file()]:
                    copy = self._folder / file.relative_to(local)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(file.read_bytes())
                shutil.rmtree(local)

    @contextlib.contextmanager
    def _warned(self):
        try:
            yield
        except Exception as error:  # another profiler runs, a full disk, a bucket's refusal: no run ends for a trace
            logger.warning("no profile at step %d: %s", self._first, first_line(error)[:200])
