"""How evaluation draws: images in a labelled grid, curves in colours that the colour-blind can tell apart."""

import functools
import io
import re

import numpy as np

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito 2008
MARKERS = ("o", "s", "^", "D", "v", "P")
SYMBOL = re.compile(r"\$[RUYZ][_^][a-z]\$")  # what a figure of ours writes as a formula, such as $R^c$
REMOVED = 0.5  # what stands for a removed patch in a picture
POINTS = 2000  # examples of a scatter plot, evenly spaced
CLASSES = 24  # that have a colour and a marker of their own; of more, the first


def plain_names(figure):
    """Draws class, file and run names as they are: two `$` in a name are no formula, only our own symbols are."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math("$" not in SYMBOL.sub("", text.get_text()))


def save_figure(figure, path):
    """Writes a matplotlib figure as a PNG file; the path is an `epath.Path`."""
    picture = io.BytesIO()
    plain_names(figure)
    choose_fonts(figure)
    figure.savefig(picture, format="png", dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture.getvalue())


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


def image_grid(rows, titles, caption, names=None):
    """A figure of images: a row an example, a title a column.

    Args:
        rows: a list of lists of H x W x C arrays, 0 to 1; C is 1 or 3.
        titles: one a column.
        caption: a line below.
        names: one a row; None is none.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    side = 1.5
    figure = Figure(figsize=(side * len(titles) + 0.6, side * len(rows) + 0.7), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for number, (axes_of_row, images) in enumerate(zip(axes, rows, strict=True)):
        for axis, image in zip(axes_of_row, images, strict=True):
            put_picture(axis, image)
        if names:
            axes_of_row[0].set_ylabel(shortened(names[number], 18), fontsize=8)
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


def put_picture(axis, image_HxWxC):
    """An image without ticks; one channel is gray."""
    gray = image_HxWxC.shape[-1] == 1
    axis.imshow(image_HxWxC[..., 0] if gray else image_HxWxC, cmap="gray" if gray else None, vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


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
    from matplotlib.figure import Figure

    shown = np.unique(np.linspace(0, len(label_N) - 1, POINTS).round().astype(int))
    xy_Nx2, share_2 = principal_plane(np.asarray(features_NxG[shown], np.float32))
    figure = Figure(figsize=(6.6, 4.6), layout="constrained")
    axis = figure.subplots()
    for number, label in enumerate(np.unique(label_N[shown])[:CLASSES]):
        of_class = xy_Nx2[label_N[shown] == label]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
        name = called(label) if label >= 0 else "no label"
        axis.scatter(*of_class.T, s=14, color=colour, marker=marker, alpha=0.7, linewidths=0, label=name)
    axis.set_xlabel(f"first principal component, {share_2[0]:.0%} of the variance", fontsize=9)
    axis.set_ylabel(f"second, {share_2[1]:.0%}", fontsize=9)
    axis.set_title(caption, fontsize=10)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure
