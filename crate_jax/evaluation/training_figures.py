"""Figures of fine-tuning: its curve, and what few labels are worth beside training from scratch and raw pixels."""

from crate_jax.evaluation.classifier_figures import BLUE, GREY, ORANGE, bars
from crate_jax.training.metrics_file import read_metrics


def curve_figure(metrics, results):
    """Loss and accuracy of the training batches against the step, and the accuracy on the test set.

    Args:
        metrics: path of a `metrics.jsonl`.
        results: what `finetune.json` holds.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    lines = [line for line in read_metrics(metrics) if "loss" in line]
    steps = [line["step"] for line in lines]
    figure = Figure(figsize=(8.6, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps, [line["loss"] for line in lines], color=BLUE, marker="." if len(steps) < 30 else "")
    left.set_ylabel("cross-entropy, training batches", fontsize=9)
    left.set_ylim(0, 1.08 * max(line["loss"] for line in lines))
    shares = [100 * line["train_accuracy"] for line in lines]
    right.plot(steps, shares, color=BLUE, marker="." if len(steps) < 30 else "", label="training batches, augmented")
    share = 100 * results["accuracy"]
    right.axhline(share, color=ORANGE, linestyle="--", label=f"test set at the end: {share:.1f} %")
    right.set_ylabel("accuracy, %", fontsize=9)
    right.set_ylim(0, 102)
    right.legend(fontsize=8, loc="lower right")
    for axis in (left, right):
        axis.set_xlabel("step", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
    start = "from scratch" if results["from"] == "scratch" else "from a pre-trained encoder"
    figure.suptitle(f"{start}, {results['train_examples']} training examples", fontsize=10)
    return figure


def few_labels_figure(results):
    """Bars of the means, a dot a draw.

    Args:
        results: what `few_labels.json` holds.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    frozen = results["head_only"]
    kinds = (
        ("pretrained", "pre-trained, " + ("frozen" if frozen else "fine-tuned"), BLUE),
        ("from_scratch", "untrained, frozen" if frozen else "the same from scratch", ORANGE),
        ("raw_pixels", "raw pixels", GREY),
    )
    figure = Figure(figsize=(5.2, 3.5), layout="constrained")
    axis = figure.subplots()
    bars(axis, [("", results)], kinds)
    axis.set_xticks([])
    counts = f"{results['labels_per_class']} labels a class, {results['draws']} draws"
    axis.set_xlabel(f"{counts}; {results['test_examples']} test examples", fontsize=9)
    axis.legend(fontsize=8, frameon=False, loc="upper left", ncols=3, columnspacing=1)
    return figure
