"""The loss curve of a run, as a picture: `figures/loss.png`."""

import io

from crate_jax.training.metrics_file import read_metrics


def plot_loss(metrics, path):
    """Draws loss and learning rate against the step.

    Args:
        metrics: path of a `metrics.jsonl`.
        path: an `epath.Path` for the PNG.
    """
    from matplotlib.figure import Figure

    lines = [line for line in read_metrics(metrics) if "loss" in line]
    if not lines:
        return
    steps = [line["step"] for line in lines]
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(steps, [line["loss"] for line in lines], color="#0072b2", label="loss")
    axis.set_xlabel("step")
    axis.set_ylabel("mean squared error of removed patches")
    losses = sorted(line["loss"] for line in lines)
    axis.set_ylim(0, min(1.05 * losses[-1], 3 * losses[len(losses) // 2]))  # the first steps would flatten the rest
    axis.grid(alpha=0.3)
    rate = axis.twinx()
    rate.plot(steps, [line["learning_rate"] for line in lines], color="#999999", linewidth=0.8, label="learning rate")
    rate.set_ylabel("learning rate", color="#777777")
    rate.set_ylim(bottom=0)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture.getvalue())
