"""Figures (matplotlib's) of accuracies: by layer, beside baselines, by class, of fine-tuning; predicted classes."""

import numpy as np

from crate_jax.figures import COLOURS, GREY, MARKERS, label, panels, picture, shortened
from crate_jax.training.metrics_file import read_metrics

BLUE, ORANGE = COLOURS[:2]
KINDS = (  # key in the results, what to call it, colour
    ("accuracy", "this network", BLUE),
    ("untrained_accuracy", "untrained", ORANGE),
    ("raw_pixel_accuracy", "raw pixels", GREY),
)
SHOWN = 8  # of a person's own pictures


def probe_figure(results, depth):
    """Accuracy by layer (of `depth`) and pooling on the held-out part, and on the test set beside the baselines."""
    figure, ((left, right),) = panels(2, size=(4.7, 4.0), width_ratios=(1, 1.25))
    _by_layer(left, results, depth)
    groups = [
        (f"{k} per class\n{results['few_shot_draws']} draws", one) for k, one in results.get("few_shot", {}).items()
    ]
    bars(right, [*groups, (f"all {results['train_examples']}\nexamples", results)], KINDS)
    right.set_title(f"test set, {results['test_examples']} examples", fontsize=10)
    return figure


def _by_layer(axis, results, depth):
    place = {f"encoder_{layer:02d}": layer for layer in range(depth)} | {"last": depth - 1}
    ticks = {}  # of the layers that were tried
    for key, style, alpha, of in (("held_out", "-", 1.0, ""), ("untrained_held_out", ":", 0.75, ", untrained")):
        lines = {}
        for name, value in results.get(key, {}).items():
            pooling, _, layer = name.partition("@")
            lines.setdefault(pooling, []).append((place[layer], 100 * value))
            ticks[place[layer]] = "last" if layer == "last" else str(place[layer])
        for number, (pooling, points) in enumerate(lines.items()):
            look = {"color": COLOURS[number], "marker": MARKERS[number], "linestyle": style, "alpha": alpha}
            axis.plot(*zip(*sorted(points), strict=True), markersize=4, label=pooling + of, **look)
    chosen = results["features"]
    at = (place[chosen.partition("@")[2]], 100 * results["held_out"][chosen])
    axis.plot(*at, "o", markersize=11, markerfacecolor="none", markeredgecolor="black", label=f"chosen: {chosen}")
    axis.set_xticks(list(ticks), list(ticks.values()))
    label(axis, title="held-out part of the training set", x="layer of the encoder", y="accuracy, %")
    axis.legend(fontsize=7, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.17))


def bars(axis, groups, kinds):
    """Bars of accuracies side by side, each with its number, and a dot a draw where there are several.

    Args:
        axis: a matplotlib axis.
        groups: list of (name, {key: fraction of one, "by_draw": {key: list}}).
        kinds: list of (key, name, colour).
    """
    shown = [kind for kind in kinds if any(kind[0] in one for _, one in groups)]
    width = 0.84 / len(shown)
    for number, (key, name, colour) in enumerate(shown):
        places = np.arange(len(groups)) + (number - (len(shown) - 1) / 2) * width
        axis.bar(places, [100 * one.get(key, np.nan) for _, one in groups], 0.92 * width, color=colour, label=name)
        for place, (_, one) in zip(places, groups, strict=True):
            if key not in one:
                continue
            height = 100 * one[key]
            draws = [100 * value for value in one.get("by_draw", {}).get(key, ())]
            spread = np.linspace(-0.22, 0.22, len(draws)) * width if len(draws) > 1 else np.zeros(len(draws))
            axis.plot(
                place + spread, draws, "o", markersize=3, color="white", markeredgecolor="black", markeredgewidth=0.7
            )
            axis.text(place, max([height, *draws]) + 2.5, f"{height:.1f}", ha="center", fontsize=8)
    axis.set_xticks(range(len(groups)), [name for name, _ in groups], fontsize=8)
    axis.set_ylim(0, 100 if not shown else 118)
    axis.set_yticks(range(0, 101, 20))
    axis.set_ylabel("accuracy, %", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(axis="y", alpha=0.25)
    axis.set_axisbelow(True)
    axis.legend(fontsize=8, frameon=False, ncols=len(shown), loc="upper left")


def verdicts_figure(images_BxHxWxC, verdicts):
    """A person's own pictures, the first `SHOWN`, each with the likeliest classes.

    Args:
        images_BxHxWxC: 0 to 1.
        verdicts: a list of {"name", "probabilities": dictionary from class to share, the likeliest first}.
    """
    shown = list(zip(images_BxHxWxC, verdicts, strict=True))[:SHOWN]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = panels(2 * columns, rows, size=(2.3, 1.75), width_ratios=(1, 1.5) * columns)
    for picture_axis, bar_axis, (image, verdict) in zip(*[iter(axes.flat)] * 2, shown, strict=False):
        picture(picture_axis, image)
        picture_axis.set_title(shortened(verdict["name"], 22), fontsize=8)
        names, shares = list(verdict["probabilities"]), [100 * one for one in verdict["probabilities"].values()]
        places = np.arange(len(names))[::-1]
        bar_axis.barh(places, shares, color=[BLUE] + [COLOURS[4]] * (len(names) - 1), height=0.7)
        for place, share in zip(places, shares, strict=True):
            bar_axis.text(share + 2, place, f"{share:.0f} %", va="center", fontsize=7)
        bar_axis.set_yticks(places, [shortened(name, 18) for name in names], fontsize=8)
        bar_axis.set_xlim(0, 122)
        bar_axis.set_xticks([])
        bar_axis.spines[["top", "right", "bottom"]].set_visible(False)
    for axis in list(axes.flat)[2 * len(shown) :]:
        axis.set_axis_off()
    return figure


def confusion_figure(results):
    """How often each class is predicted as which, as a share of the true class; of what `probe.json` holds."""
    counts = np.asarray(results["confusion"], float)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [shortened(row["class"], 16) for row in results["classes"]]
    side = 2.2 + 0.24 * len(names)
    figure, ((axis,),) = panels(1, size=(side + 0.8, side))
    image = axis.imshow(100 * share, cmap="Blues", vmin=0, vmax=100)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_xlabel("predicted class", fontsize=9)
    axis.set_ylabel("class", fontsize=9)
    figure.colorbar(image, ax=axis, shrink=0.7, label="% of the class")
    axis.set_title(f"{results['features']}, {results['test_examples']} test examples", fontsize=10)
    return figure


def curve_figure(metrics, results):
    """Loss and accuracy of the training batches against the step, of a `metrics.jsonl`; accuracy on the test set."""
    lines = [line for line in read_metrics(metrics) if {"loss", "train_accuracy"} <= line.keys()]
    steps = [line["step"] for line in lines]
    figure, ((left, right),) = panels(2, size=(4.3, 3.3))
    left.plot(steps, [line["loss"] for line in lines], color=BLUE, marker="." if len(steps) < 30 else "")
    left.set_ylim(0, 1.08 * max((line["loss"] for line in lines), default=1.0))
    shares = [100 * line["train_accuracy"] for line in lines]
    right.plot(steps, shares, color=BLUE, marker="." if len(steps) < 30 else "", label="training batches, augmented")
    share = 100 * results["accuracy"]
    right.axhline(share, color=ORANGE, linestyle="--", label=f"test set at the end: {share:.1f} %")
    right.set_ylim(0, 102)
    right.legend(fontsize=8, loc="lower right")
    for axis, name in ((left, "cross-entropy, training batches"), (right, "accuracy, %")):
        label(axis, x="step", y=name)
    start = "from scratch" if results["from"] == "scratch" else "from a pre-trained encoder"
    figure.suptitle(f"{start}, {results['train_examples']} training examples", fontsize=10)
    return figure


def few_labels_figure(results):
    """Bars of the means, a dot a draw; of what `few_labels.json` holds."""
    frozen = results["head_only"]
    kinds = (
        ("pretrained", "pre-trained, " + ("frozen" if frozen else "fine-tuned"), BLUE),
        ("from_scratch", "untrained, frozen" if frozen else "the same from scratch", ORANGE),
        ("raw_pixels", "raw pixels", GREY),
    )
    figure, ((axis,),) = panels(1, size=(5.2, 3.5))
    bars(axis, [("", results)], kinds)
    axis.set_xticks([])
    counts = f"{results['labels_per_class']} labels per class, {results['draws']} draws"
    axis.set_xlabel(f"{counts}; {results['test_examples']} test examples", fontsize=9)
    axis.legend(fontsize=8, frameon=False, loc="upper left", ncols=3, columnspacing=1)
    return figure
