"""The loss curve of a run, as a picture: `figures/loss.png`."""

import math

import numpy as np

from crate_jax.figure_files import save_figure
from crate_jax.figures import COLOURS, GREY, label, panels
from crate_jax.training.metrics_file import read_metrics

SMOOTHED = 0.05  # of the logged lines: each is the loss of a single batch
FEW = 30  # lines that are drawn with a mark each


def plot_loss(metrics, path):
    """Draws the loss of a `metrics.jsonl` against the step, where it has one that is finite."""
    drawn = ("loss", "learning_rate")
    lines = [line for line in read_metrics(metrics) if all(_is_finite(line.get(name)) for name in drawn)]
    if lines:
        save_figure(loss_figure(lines), path)


def loss_figure(lines):
    """A matplotlib figure of logged lines: the loss of each batch, its moving average, and that of held-out images."""
    steps = [line["step"] for line in lines]
    figure, ((axis,),) = panels(1, size=(6.4, 3.6))
    values = [line.get("masked_error", line["loss"]) for line in lines]  # the loss less its other terms
    width = round(SMOOTHED * len(lines))
    faint = {"linewidth": 0.7, "alpha": 0.4} if width >= 2 else {}
    few = {"marker": "."} if len(lines) < FEW else {}  # a line through one point is none
    axis.plot(steps, values, color=COLOURS[0], label="a training batch", **faint, **few)
    if faint:
        axis.plot(steps, moving_average(values, width), color=COLOURS[0], label=f"mean of {2 * width + 1} batches")
    held_out = [(line["step"], line["evaluation/loss"]) for line in lines if _is_finite(line.get("evaluation/loss"))]
    if held_out:
        axis.plot(*zip(*held_out, strict=True), "o--", color=COLOURS[5], markersize=4, label="held-out images")
    axis.legend(fontsize=8, loc="upper center")
    label(axis, x="step", y="mean squared error of removed patches")
    top = max(map(_top, filter(None, (values, [loss for _, loss in held_out]))))
    axis.set_ylim(0, top if top > 0 else 1)
    rate = axis.twinx()
    rate.plot(steps, [line["learning_rate"] for line in lines], color="#999999", linewidth=0.8, **few)
    rate.set_ylabel("learning rate", color=GREY, fontsize=9)
    rate.tick_params(labelsize=8)
    rate.set_ylim(bottom=0)
    return figure


def _top(losses):
    """Where an axis ends: the first steps would flatten the rest."""
    losses = sorted(losses)
    return min(1.05 * losses[-1], 3 * losses[len(losses) // 2])


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
