"""How evaluation draws: images in a labelled grid, curves in colours that the colour-blind can tell apart."""

import io
import re

import numpy as np

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito 2008
MARKERS = ("o", "s", "^", "D", "v", "P")
SYMBOL = re.compile(r"\$[RUYZ][_^][a-z]\$")  # what a figure of ours writes as a formula, such as $R^c$
REMOVED = 0.5  # what stands for a removed patch in a picture


def plain_names(figure):
    """Draws class, file and run names as they are: two `$` in a name are no formula, only our own symbols are."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math("$" not in SYMBOL.sub("", text.get_text()))


def save_figure(figure, path):
    """Writes a matplotlib figure as a PNG file; the path is an `epath.Path`."""
    picture = io.BytesIO()
    plain_names(figure)
    figure.savefig(picture, format="png", dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture.getvalue())


def image_grid(rows, titles, caption):
    """A figure of images: a row an example, a title a column.

    Args:
        rows: a list of lists of H x W x C arrays, 0 to 1; C is 1 or 3.
        titles: one a column.
        caption: a line below.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    side = 1.5
    figure = Figure(figsize=(side * len(titles) + 0.2, side * len(rows) + 0.7), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for axes_of_row, images in zip(axes, rows, strict=True):
        for axis, image in zip(axes_of_row, images, strict=True):
            gray = image.shape[-1] == 1
            axis.imshow(image[..., 0] if gray else image, cmap="gray" if gray else None, vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    figure.supxlabel(caption, fontsize=8)
    return figure


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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(ylabels), 3.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(ylabels)))
    for axis, (quantity, label) in zip(axes, ylabels.items(), strict=True):
        for number, (kind, (x, values)) in enumerate(lines.items()):
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
            axis.plot(x, values[quantity], label=kind, markersize=4, **style)
        axis.set_xlabel(xlabel)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    return figure
