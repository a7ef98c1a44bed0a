"""How evaluation draws: images in a labelled grid, curves in colours that the colour-blind can tell apart."""

import functools
import io
import re
import textwrap

import numpy as np

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito 2008
MARKERS = ("o", "s", "^", "D", "v", "P")
SYMBOL = re.compile(r"\$[RUYZ][_^][a-z]\$")  # what a figure of ours writes as a formula, such as $R^c$
GREY = "#777777"
PANEL = (3.6, 3.0)  # inches
REMOVED = 0.5  # what stands for a removed patch in a picture
POINTS = 2000  # examples of a scatter plot, evenly spaced
CLASSES = 24  # that have a colour and a marker of their own; of more, the first


def plain_names(figure):
    """Draws class, file and run names as they are: two `$` in a name are no formula, only our own symbols are."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math("$" not in SYMBOL.sub("", text.get_text()))


def png_of(figure):
    """A matplotlib figure as a PNG file, bytes."""
    picture = io.BytesIO()
    plain_names(figure)
    choose_fonts(figure)
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def save_figure(figure, path):
    """Writes a matplotlib figure as a PNG file; the path is an `epath.Path`."""
    png = png_of(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png)


def choose_fonts(figure):
    """Draws names in the scripts they are written in; matplotlib's own font has no CJK letters.

    A text gets an installed font that has its letters; letters that no font has are written as `\\u732b`.
    """
    from matplotlib.text import Text

    for axis in [one for axes in figure.axes for one in (axes.xaxis, axes.yaxis)]:
        labels = [label.get_text() for label in axis.get_ticklabels()]
        shown = [drawable(label)[0] for label in labels]
        if shown != labels:
            axis.set_ticks(axis.get_ticklocs(), labels=shown)
    for text in figure.findobj(Text):
        shown, family = drawable(text.get_text())
        if shown != text.get_text():
            text.set_text(shown)
        if family:
            text.set_fontfamily(["DejaVu Sans", family])


@functools.lru_cache(maxsize=4096)
def drawable(text):
    """(what to draw, the font family beside DejaVu Sans that its letters need or None)."""
    from matplotlib.font_manager import findfont

    missing = {ord(letter) for letter in text if ord(letter) > 127}
    missing -= _letters_of(findfont("DejaVu Sans")) if missing else set()
    family = _family_with(frozenset(missing)) if missing else None
    if missing and not family:
        letters = (x.encode("unicode_escape").decode() if ord(x) in missing else x for x in text)
        text = "".join(letters)
    return text, family


@functools.lru_cache(maxsize=256)
def _letters_of(file):
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (RuntimeError, OSError):  # a font that FreeType cannot read
        return frozenset()


@functools.lru_cache(maxsize=4096)
def _family_with(letters):
    from matplotlib.font_manager import fontManager

    fonts = sorted({(font.name, font.fname) for font in fontManager.ttflist if not font.name.startswith("Last Resort")})
    return next((name for name, file in fonts if letters <= _letters_of(file)), None)


def panels(columns, rows=1, *, size=PANEL, **options):
    """A figure with a grid of panels, and its axes as a list of rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
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
    from matplotlib.figure import Figure

    width = max(len(row) for row in rows)
    left, top, gap = 0.32 if names else 0.04, 0.22 if columns else 0.04, 0.05
    across = left + width * (side + gap)
    said = [part for line in caption.split("\n") for part in textwrap.wrap(line, max(20, int(across / 0.06)))]
    below = 0.06 + 0.14 * len(said)
    size = (across, top + below + len(rows) * (side + gap))
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
            axes[r][0].set_ylabel(shortened(names[r], 18), fontsize=8)
    if said:
        figure.text(0.5, 0.06 / size[1], "\n".join(said), fontsize=8, ha="center", va="bottom")
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


def principal_plane(features_NxG):
    """The plane of largest variance.

    Args:
        features_NxG: features.

    Returns:
        (coordinates_Nx2, share_2 of the variance). Each component points to where its largest entry is positive.
    """
    centred_NxG = features_NxG - features_NxG.mean(0, dtype=np.float64)
    u_NxR, s_R, v_RxG = np.linalg.svd(centred_NxG, full_matrices=False)
    kept = min(2, len(s_R))
    sign = np.sign(v_RxG[np.arange(kept), np.abs(v_RxG[:kept]).argmax(1)])
    coordinates_Nx2 = np.zeros((len(features_NxG), 2))
    coordinates_Nx2[:, :kept] = u_NxR[:, :kept] * s_R[:kept] * sign
    share_2 = np.zeros(2)
    share_2[:kept] = s_R[:kept] ** 2 / max(np.sum(s_R**2), 1e-30)
    return coordinates_Nx2, share_2


def scatter_figure(features_NxG, label_N, called, caption):
    """A point an example.

    Args:
        features_NxG: features; of more than `POINTS`, evenly spaced ones are drawn.
        label_N: integers, -1 where there is none.
        called: a function from a label to its name.
        caption: the title.

    Returns:
        A matplotlib figure.
    """
    shown = np.unique(np.linspace(0, len(label_N) - 1, POINTS).round().astype(int))
    xy_Nx2, share_2 = principal_plane(np.asarray(features_NxG[shown], np.float32))
    figure, ((axis,),) = panels(1, size=(6.6, 4.6))
    for number, one in enumerate(np.unique(label_N[shown])[:CLASSES]):
        of_class = xy_Nx2[label_N[shown] == one]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
        name = called(one) if one >= 0 else "no label"
        axis.scatter(*of_class.T, s=14, color=colour, marker=marker, alpha=0.7, linewidths=0, label=name)
    first = f"first principal component, {share_2[0]:.0%} of the variance"
    label(axis, title=caption, x=first, y=f"second, {share_2[1]:.0%}")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure
