"""Names in scripts that matplotlib's own font lacks: drawn in a font that has them, or spelled out; never as boxes."""

import warnings

import pytest
from etils import epath
from matplotlib.figure import Figure

from crate_jax import figure_files


def names_drawn(figure, path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "Glyph missing from font"
        figure_files.save_figure(figure, epath.Path(path))
    axis = figure.axes[0]
    return axis.get_title(), [label.get_text() for label in axis.get_yticklabels()], axis.texts[0].get_text()


@pytest.fixture
def figure():
    figure = Figure(layout="constrained")
    axis = figure.subplots()
    axis.set_title("猫 (é, ✓)")
    axis.set_yticks([0, 1], ["犬", "dog"])
    axis.text(0, 0, "고양이 95 %")
    return figure


def test_spelled_out_where_no_font_has_them(figure, tmp_path, monkeypatch):
    monkeypatch.setattr(figure_files, "_family_with", lambda letters: None)
    figure_files.drawable.cache_clear()
    title, ticks, text = names_drawn(figure, tmp_path / "x.png")
    assert title == r"\u732b (é, ✓)" and ticks == [r"\u72ac", "dog"] and text == r"\uace0\uc591\uc774 95 %"
    figure_files.drawable.cache_clear()


def test_a_font_that_has_them_is_taken(figure, tmp_path, monkeypatch):
    monkeypatch.setattr(figure_files, "_family_with", lambda letters: "Liberation Serif")
    figure_files.drawable.cache_clear()
    assert figure_files.drawable("猫") == ("猫", "Liberation Serif") and figure_files.drawable("naïve ✓") == (
        "naïve ✓",
        None,
    )
    figure_files.show_names(figure)
    assert figure.axes[0].title.get_fontfamily() == ["DejaVu Sans", "Liberation Serif"]
    figure_files.drawable.cache_clear()


def test_fonts_are_searched_for_their_letters():
    assert figure_files._family_with(frozenset([0x1D7D8])) and figure_files._family_with(frozenset([0x10FFFE])) is None
