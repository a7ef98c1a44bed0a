"""The figure of a comparison."""

import numpy as np

from crate_jax.sweeps.comparison_tables import QUANTITIES


def draw(rows):
    """A figure: rows of panels for each data set, a panel a quantity, a bar a run with its number, seeds as a line."""
    from matplotlib.figure import Figure

    groups = [[row for row in rows if row["data"] == data] for data in dict.fromkeys(row["data"] for row in rows)]
    shown = [quantity for quantity in QUANTITIES if any(quantity in row for row in rows)]
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    heights = [0.32 * len(group) + 0.9 for group in groups for _ in range(lines)]
    figure = Figure(figsize=(2.6 * columns + 2, sum(heights) + 0.3), layout="constrained")
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for number, group in enumerate(groups):
        panels = axes[number * lines : (number + 1) * lines]
        for axis, quantity in zip(panels.flat, shown, strict=False):
            _bars(axis, group, quantity, group[0]["data"] if len(groups) > 1 else "")
        for place, axis in enumerate(panels.flat):
            if place % columns:
                axis.set_yticks([])
            axis.set_visible(place < len(shown))
    return figure


def _bars(axis, rows, quantity, title):
    """One panel; a run without the quantity is said to be missing, instead of a bar of zero."""
    heading, pattern, scale = QUANTITIES[quantity]
    places, largest = np.arange(len(rows))[::-1], 0.0
    for place, row in zip(places, rows, strict=True):
        values = row.get(quantity, [])
        if not values:
            axis.text(0, place, " missing", va="center", fontsize=7, color="#777777")
            continue
        mean, spread = scale * np.mean(values), scale * np.std(values, ddof=1) if len(values) > 1 else None
        axis.barh(place, mean, xerr=spread, color="#56b4e9", ecolor="#333333", height=0.7)
        axis.text(mean + (spread or 0), place, f" {pattern.format(mean)}", va="center", fontsize=7)
        largest = max(largest, mean + (spread or 0))
    axis.set_xlim(min(0, axis.get_xlim()[0]), 1.35 * largest or 1)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_yticks(places, [row["name"] for row in rows], fontsize=8)
    axis.set_title(f"{heading}\n{title}" if title else heading, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(axis="x", alpha=0.3)
