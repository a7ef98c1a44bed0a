"""Figures as PNG files, in which names of classes, files and runs are drawn as they are, in their own scripts."""

import functools
import io
import re

from crate_jax.storage import write_file

SYMBOL = re.compile(r"\$[RUYZ][_^][a-z]\$")  # what a figure of ours writes as a formula, such as $R^c$


def png_of(figure, dpi=120):
    """A matplotlib figure as a PNG file, bytes."""
    from matplotlib import rc_context

    held = io.BytesIO()
    with rc_context({"text.usetex": False}):  # a person's matplotlibrc may ask for LaTeX, which may not be there
        show_names(figure)
        figure.savefig(held, format="png", dpi=dpi)
    return held.getvalue()


def save_figure(figure, path):
    """Writes a matplotlib figure as a PNG file; the path is an `epath.Path`."""
    write_file(path, png_of(figure))


def show_names(figure):
    """Draws class, file and run names as they are, in the scripts they are written in.

    Two `$` in a name are no formula, only our own symbols are. Matplotlib's own font has no CJK letters: a text gets an
    installed font that has its letters; letters that no font has are written as `\\u732b`.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import ScalarFormatter

    axes = [one for axes in figure.axes for one in (axes.xaxis, axes.yaxis)]
    for formatter in [axis.get_major_formatter() for axis in axes]:
        if isinstance(formatter, ScalarFormatter):  # numbers that are no formulas, in spite of a matplotlibrc
            formatter.set_usetex(False)
            formatter.set_useMathText(False)
    # first: asking for the tick labels makes those of a log scale, which are formulas
    for text in figure.findobj(Text):
        text.set_usetex(False)
        text.set_parse_math("$" not in SYMBOL.sub("", text.get_text()))
    for axis in axes:
        labels = [label.get_text() for label in axis.get_ticklabels()]
        shown = [drawable(label)[0] for label in labels]
        if shown != labels:
            axis.set_ticks(axis.get_ticklocs(), labels=shown, parse_math=False)
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
