"""One look for every figure of the report: colours that the colour-blind can tell apart, names, units, light grids."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from crate_jax.evaluation.figures import COLOURS

BLUE, ORANGE, GREEN, PINK, SKY, RED = COLOURS
GREY = "#777777"
LINES = {
    "network": {"color": BLUE, "marker": "o"},
    "training images": {"color": GREEN, "marker": "^", "linestyle": "--"},
    "untrained": {"color": ORANGE, "marker": "s", "linestyle": ":"},
}
OTHER = {"color": PINK, "marker": "D", "linestyle": "-."}  # a second run
PANEL = (3.6, 3.0)  # inches


def panels(columns, rows=1, *, size=PANEL, **options):
    """A figure with a grid of panels, and its axes as a list of rows."""
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def label(axis, *, title="", x="", y="", legend=False):
    """Title, axis names, a light grid."""
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)
    axis.tick_params(labelsize=8, which="both")
    if x.endswith(("layer", "state $Y^l$")) or x.startswith("state"):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if y.endswith("state $Z^l$"):
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
    if legend:
        axis.legend(fontsize=8, frameon=False)


def layer_axis(axis, names):
    """Layers on the x axis: E0, E1, ... for the encoder, D0, ... for the decoder, with a line between."""
    short = [f"{name[0].upper()}{int(name[-2:])}" for name in names]
    step = max(1, len(short) // 12)
    axis.set_xticks(range(0, len(short), step), short[::step])
    depth = sum(name.startswith("encoder") for name in names)
    if 0 < depth < len(names):
        axis.axvline(depth - 0.5, color=GREY, linewidth=0.8, alpha=0.6)


def picture(axis, image, title="", **options):
    """An image without ticks; one channel is gray."""
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim == 2:
        options = {"cmap": "gray", "vmin": 0, "vmax": 1} | options
    axis.imshow(image, interpolation="nearest", **options)
    axis.set_xticks([])
    axis.set_yticks([])
    for edge in axis.spines.values():
        edge.set_visible(False)
    if title:
        axis.set_title(title, fontsize=8)


def picture_grid(rows, *, columns=None, names=None, side=1.1, caption=""):
    """A grid of images.

    Args:
        rows: lists of images (0 to 1), or of (image, options of imshow); None leaves a place empty.
        columns, names: titles of the columns, names of the rows.
        side: inches per image.
        caption: a line below.

    Returns:
        A matplotlib figure.
    """
    width = max(len(row) for row in rows)
    left, top, below, gap = 0.32 if names else 0.04, 0.22 if columns else 0.04, 0.22 if caption else 0.04, 0.05
    size = (left + width * (side + gap), top + below + len(rows) * (side + gap))
    # placed by hand: a layout engine takes seconds for a hundred axes
    figure = Figure(figsize=size)
    axes = figure.subplots(len(rows), width, squeeze=False)
    figure.subplots_adjust(
        left=left / size[0], right=1 - gap / size[0], bottom=(below + gap) / size[1], top=1 - top / size[1],
        wspace=gap / side, hspace=gap / side,
    )  # fmt: skip
    for r, row in enumerate(rows):
        for c in range(width):
            cell = row[c] if c < len(row) else None
            if cell is None:
                axes[r][c].set_axis_off()
                continue
            image, options = cell if isinstance(cell, tuple) else (cell, {})
            picture(axes[r][c], image, columns[c] if columns and r == 0 else "", **options)
        if names and row[0] is not None:
            axes[r][0].set_ylabel(names[r], fontsize=8)
    if caption:
        figure.text(0.5, 0.06 / size[1], caption, fontsize=8, ha="center", va="bottom")
    return figure
