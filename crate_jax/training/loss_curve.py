"""The loss curve of a run, as a picture: `figures/loss.png`."""

import math

import numpy as np

from crate_jax.figure_files import save_figure
from crate_jax.figures import COLOURS, GREY, label, panels
from crate_jax.training.metrics_file import read_metrics

SMOOTHED = 0.05  # of the logged lines: each is the loss of a single batch


def plot_loss(metrics, path):
    """Draws the loss of a `metrics.jsonl` against the step: of each logged batch, its moving average, and held out."""
    drawn = ("loss", "learning_rate")
    lines = [line for line in read_metrics(metrics) if all(_is_finite(line.get(name)) for name in drawn)]
    if not lines:
        return
    steps = [line["step"] for line in lines]
    figure, ((axis,),) = panels(1, size=(6.4, 3.6))
    values = [line.get("masked_error", line["loss"]) for line in lines]  # the loss less its other terms
    width = round(SMOOTHED * len(lines))
    faint = {"linewidth": 0.7, "alpha": 0.4} if width >= 2 else {}
    axis.plot(steps, values, color=COLOURS[0], label="a training batch", **faint)
    if faint:
        axis.plot(steps, moving_average(values, width), color=COLOURS[0], label=f"mean of {2 * width + 1} batches")
    held_out = [(line["step"], line["evaluation/loss"]) for line in lines if _is_finite(line.get("evaluation/loss"))]
    if held_out:
        axis.plot(*zip(*held_out, strict=True), "o--", color=COLOURS[5], markersize=4, label="held-out images")
    axis.legend(fontsize=8, loc="upper center")
    label(axis, x="step", y="mean squared error of removed patches")
    losses = sorted(values)
    top = min(1.05 * losses[-1], 3 * losses[len(losses) // 2])  # the first steps would flatten the rest
    axis.set_ylim(0, top if top > 0 else 1)
    rate = axis.twinx()
    rate.plot(steps, [line["learning_rate"] for line in lines], color="#999999", linewidth=0.8)
    rate.set_ylabel("learning rate", color=GREY, fontsize=9)
    rate.tick_params(labelsize=8)
    rate.set_ylim(bottom=0)
    save_figure(figure, path)


def _is_finite(value):
    """Whether a log has a number here; logs of another program may hold anything."""
    return isinstance(value, int | float) and math.isfinite(value)


def moving_average(values, width):
    """The mean of each value and of `width` neighbours on either side, fewer near the ends.

    >>> moving_average([0.0, 3.0, 6.0], 1).tolist()
    [1.5, 3.0, 4.5]
    """
    window = np.ones(2 * width + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
