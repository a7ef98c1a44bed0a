"""What a run says: a true forecast, a bar in a notebook, devices and the time of compiling at the start."""

import io
import json
import pathlib
import types

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from crate_jax.training import observers, progress
from crate_jax.training.loss_curve import loss_figure, moving_average, plot_loss

SCALARS = {"loss": 0.25, "images_per_second": 640.0, "data_wait_fraction": 0.1}


class Clock:
    """A clock that stands still until it is moved."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(observers, "time", made)
    return made


def test_the_forecast_leaves_out_what_compiling_took(clock):
    stream = io.StringIO()
    shown = observers.Progress(1100, 0, stream, bar=False)
    clock.now = 500.0  # compiling
    shown.after_step(1, None, None)
    shown.logged(1, SCALARS)
    clock.now += 10.0
    shown.after_step(101, None, None)
    shown.logged(101, SCALARS)
    first, second = stream.getvalue().splitlines()
    assert first.startswith("step 1/1100: loss 0.2500, 640 images/s") and "left" not in first
    assert second.endswith(", 1:40 left")  # 1,000 steps at 10 a second


def test_a_notebook_has_one_bar_that_begins_where_the_run_goes_on():
    stream = io.StringIO()
    shown = observers.Progress(20, 10, stream, bar=True)
    for step in range(11, 21):
        shown.after_step(step, None, None)
        shown.logged(step, SCALARS)
    shown.close()
    assert "\n" not in stream.getvalue().rstrip("\n") and "20/20" in stream.getvalue()
    assert "loss 0.2500" in stream.getvalue().rsplit("\r", 1)[1]


def test_a_terminal_has_a_bar_and_a_file_has_lines():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert not progress.in_notebook() and not observers.Progress(2, 0, io.StringIO())._wants_bar
    assert observers.Progress(2, 0, Terminal())._wants_bar


def test_nobody_has_to_read_it(monkeypatch):
    class Left(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    shown = observers.Progress(2, 0, Left(), bar=False)
    shown.after_step(1, None, None)
    shown.logged(1, SCALARS)
    monkeypatch.setattr("sys.stderr", Left())
    progress.say("run: ...")


def test_a_profile_goes_to_the_store_and_its_failure_ends_no_run(tmp_path, monkeypatch, caplog):
    traced = []
    monkeypatch.setattr(observers, "is_remote", lambda path: True)
    monkeypatch.setattr("jax.profiler.start_trace", traced.append)
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: (pathlib.Path(traced[0]) / "x.pb").write_text("trace"))
    profiler = observers.Profiler(epath.Path(tmp_path / "store"), 2)
    for step in range(1, 7):
        profiler.after_step(step, jnp.ones(()), None)
    assert (tmp_path / "store" / "x.pb").read_text() == "trace" and not pathlib.Path(traced[0]).exists()
    profiler.after_step(1, jnp.ones(()), None)  # to a folder that is gone
    profiler.close()
    assert "no profile at step 2" in caplog.text
    observers.Profiler(epath.Path(tmp_path / "store"), 2).started(1)  # a run that is resumed at the step before
    assert len(traced) == 3


def test_lines_that_cannot_be_drawn_are_left_out_of_the_curve(tmp_path):
    numbers = [(1, 0.5), (2, float("nan")), (3, "x"), (4, 0.0)]
    lines = [json.dumps({"step": step, "loss": loss, "learning_rate": 0.1}) for step, loss in numbers]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 5, "loss": 1.0}', "[" * 100_000]))
    plot_loss(tmp_path / "metrics.jsonl", epath.Path(tmp_path / "loss.png"))
    assert (tmp_path / "loss.png").stat().st_size > 5000


def test_the_loss_curve_of_one_step_is_seen_and_held_out_losses_are_within_the_axes():
    """A line through one point drew nothing; of an overfit run the held-out curve lay above the figure."""
    (axis, _) = loss_figure([{"step": 1, "loss": 0.5, "learning_rate": 0.1}]).axes
    assert axis.lines[0].get_marker() == "."
    lines = [{"step": step, "loss": 1 / step, "learning_rate": 0.1} for step in range(1, 101)]
    for step in (50, 100):
        lines[step - 1]["evaluation/loss"] = step / 50
    (axis, _) = loss_figure(lines).axes
    assert axis.get_ylim()[1] > 2


def test_the_loss_curve_is_smoothed_by_the_mean_of_neighbours():
    values = np.random.default_rng(0).normal(size=20)
    expected = [values[max(0, i - 3) : i + 4].mean() for i in range(20)]
    np.testing.assert_allclose(moving_average(values, 3), expected)


def test_the_start_names_devices_folder_steps_and_examples(capsys, monkeypatch):
    warned = []
    monkeypatch.setattr(progress, "warn_of_unused_accelerator", lambda: warned.append(True))
    devices = types.SimpleNamespace(flat=[types.SimpleNamespace(device_kind="TPU v5 lite")] * 4)
    program = types.SimpleNamespace(
        total_steps=2000, config=types.SimpleNamespace(batch_size=32), mesh=types.SimpleNamespace(devices=devices)
    )
    progress.announce(program, "gs://bucket/run", 2711)
    said = capsys.readouterr().err
    assert "devices: 4 x TPU v5e\n" in said and warned
    assert "run: gs://bucket/run: 2,000 steps of 32 images, 2,711 training examples\n" in said


def test_compiling_is_said_with_its_time(capsys):
    import jax

    run = progress.compiled(jax.jit(lambda x: x + 1), jnp.ones(3))
    assert run(jnp.ones(3)).tolist() == [2, 2, 2]
    assert "compiled in 0 s" in capsys.readouterr().err
