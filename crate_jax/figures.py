"""How figures look: images in a labelled grid, curves in colours that the colour-blind can tell apart."""

import textwrap

import numpy as np

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito 2008
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY, WRONG = "#777777", COLOURS[5]
PANEL = (3.6, 3.0)  # inches
REMOVED = 0.5  # what stands for a removed patch in a picture
COLUMNS = 8  # of a gallery, at most


def panels(columns, rows=1, *, size=PANEL, **options):
    """A figure with a grid of panels, and its axes as a list of rows."""
    from crate_jax.notebook_figure import ShownFigure

    figure = ShownFigure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def label(axis, *, title="", x="", y="", legend=False):
    """Title, axis names, a light grid."""
    from matplotlib.ticker import MaxNLocator

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


def picture(axis, image, title="", frame=None, **options):
    """An image without ticks; one channel is gray, `frame` is the colour of a frame around it."""
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim == 2:
        options = {"cmap": "gray", "vmin": 0, "vmax": 1} | options
    axis.imshow(image, interpolation="nearest", **options)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set(visible=frame is not None, color=frame, linewidth=2.5)
    if title:
        axis.set_title("\n".join(shortened(line, 18) for line in title.split("\n")), fontsize=8, pad=2)


def picture_grid(rows, *, columns=None, names=None, side=1.1, caption=""):
    """A grid of images.

    Args:
        rows: lists of images (0 to 1), or of (image, options of `picture`: title, frame, those of imshow); None leaves
            a place empty.
        columns, names: titles of the columns, names of the rows.
        side: inches per image.
        caption: a line below.

    Returns:
        A matplotlib figure.
    """
    from crate_jax.notebook_figure import ShownFigure

    rows = [[cell if isinstance(cell, tuple | None) else (cell, {}) for cell in row] for row in rows]
    width, titles = max(len(row) for row in rows), [cell[1].get("title", "") for row in rows for cell in row if cell]
    title = 0.14 * max((one.count("\n") + 1 for one in titles if one), default=0)
    left, top, gap = 0.32 if names else 0.04, 0.22 if columns else 0.04, 0.05
    across = left + width * (side + gap)
    said = [part for line in caption.split("\n") for part in textwrap.wrap(line, max(20, int(across / 0.06)))]
    below = 0.06 + 0.14 * len(said)
    size = (across, top + below + len(rows) * (title + side + gap))
    # placed by hand: a layout engine takes seconds for a hundred axes
    figure = ShownFigure(figsize=size)
    axes = figure.subplots(len(rows), width, squeeze=False)
    figure.subplots_adjust(
        left=left / size[0], right=1 - gap / size[0], bottom=(below + gap) / size[1], top=1 - (top + title) / size[1],
        wspace=gap / side, hspace=(title + gap) / side,
    )  # fmt: skip
    for r, row in enumerate(rows):
        for c, cell in enumerate([*row, *[None] * (width - len(row))]):
            if cell is None:
                axes[r][c].set_axis_off()
                continue
            picture(axes[r][c], cell[0], **({"title": columns[c]} if columns and r == 0 else {}) | cell[1])
        if names and row[0] is not None:
            axes[r][0].set_ylabel(shortened(names[r], 18), fontsize=8)
    if said:
        figure.text(0.5, 0.06 / size[1], "\n".join(said), fontsize=8, ha="center", va="bottom")
    return figure


def gallery(cells, caption):
    """Pictures in lines of `COLUMNS`.

    Args:
        cells: a list of (image, options), as of `picture_grid`.
        caption: a line below.

    Returns:
        A matplotlib figure.
    """
    rows = [cells[first : first + COLUMNS] for first in range(0, len(cells), COLUMNS)]
    return picture_grid(rows or [[None]], side=1.3, caption=caption)


def masked_image(image_HxWxC, mask_HxWx1):
    """The image with its removed patches in gray."""
    return np.where(mask_HxWx1 > 0, REMOVED, image_HxWxC)


def curves(lines, xlabel, ylabels):
    """A figure with a panel a quantity and a line a kind.

    Args:
        lines: dictionary from kind to (x, {quantity: y}).
        xlabel: of all panels.
        ylabels: dictionary from quantity to label.

    Returns:
        A matplotlib figure.
    """
    figure, (axes,) = panels(len(ylabels), size=(3.4, 3.2))
    for axis, (quantity, name) in zip(axes, ylabels.items(), strict=True):
        for number, (kind, (x, values)) in enumerate(lines.items()):
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
            axis.plot(x, values[quantity], label=kind, markersize=4, **style)
        label(axis, x=xlabel, y=name)
    axes[0].legend(fontsize=8)
    return figure


def shortened(text, most):
    """A text cut to a length."""
    return text if len(text) <= most else text[: most - 1] + "…"
