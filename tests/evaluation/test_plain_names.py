"""Names of classes, files and runs are drawn as they are; only our own symbols are formulas."""

import pickle

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from crate_jax.errors import UserError
from crate_jax.evaluation.accuracy_figures import probe_figure
from crate_jax.evaluation.results import Result
from crate_jax.figure_files import save_figure
from crate_jax.figures import picture_grid
from crate_jax.sweeps.comparison_tables import markdown


def test_a_figure_that_a_result_lacks_is_refused_by_name():
    result = Result("probe", {}, figures={"probe": lambda: None})
    assert result.plot() is None and result.plot("probe") is None
    with pytest.raises(UserError, match="this probe result has no figure x; it has probe"):
        result.plot("x")
    with pytest.raises(UserError, match="it has none"):
        Result("probe", {}).plot()


def test_a_notebook_shows_a_figure_by_itself():
    figure = picture_grid([[np.zeros((8, 8, 3))]])
    assert isinstance(figure, Figure) and figure._repr_png_().startswith(b"\x89PNG")
    assert pickle.loads(pickle.dumps(figure)).axes


def test_layers_that_were_not_tried_have_no_tick():
    held_out = {f"mean@{layer}": 0.5 for layer in ("encoder_00", "encoder_02", "last")}
    results = {"held_out": held_out, "features": "mean@last", "train_examples": 3, "test_examples": 3, "accuracy": 0.5}
    left = probe_figure(results, 6).axes[0]
    shown = {tick: label.get_text() for tick, label in zip(left.get_xticks(), left.get_xticklabels(), strict=True)}
    assert shown == {0: "0", 2: "2", 5: "last"}


@pytest.mark.parametrize("name", ["a$b_$", "$$", "cost $5 to $9 {", r"$\nope$", "coding rate $R^c$ of $x"])
def test_two_dollars_in_a_name_are_no_formula(name, tmp_path):
    figure = Figure(layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], label=name)
    axis.set_title(name)
    axis.legend()
    figure.supxlabel(name)
    save_figure(figure, tmp_path / "figure.png")
    assert not axis.title.get_parse_math() and (tmp_path / "figure.png").stat().st_size > 1000


def test_our_symbols_stay_formulas(tmp_path):
    figure = Figure()
    figure.suptitle("compression: coding rate $R^c$ of $U_k$")
    save_figure(figure, tmp_path / "figure.png")
    assert figure._suptitle.get_parse_math()


def test_tick_labels_of_a_log_scale_stay_formulas(tmp_path):
    figure = Figure()
    axis = figure.subplots()
    axis.plot([1, 100])
    axis.set_yscale("log")
    axis.set_xticks([0, 1], labels=["a$b_$", "$x$"])
    save_figure(figure, tmp_path / "figure.png")
    formulas = [label for label in axis.get_yticklabels() if "mathdefault" in label.get_text()]
    assert formulas and all(label.get_parse_math() for label in formulas)
    assert not any(label.get_parse_math() for label in axis.get_xticklabels())


def test_a_bar_in_a_name_does_not_end_a_cell():
    lines = markdown(["run", "seeds", "loss"], [["a|b", "1", "0.5"]]).splitlines()
    assert lines[-1] == r"| a\|b | 1 | 0.5 |"


def test_a_matplotlibrc_that_asks_for_latex_changes_nothing(tmp_path):
    with matplotlib.rc_context({"text.usetex": True, "axes.formatter.use_mathtext": True}):
        figure = Figure(layout="constrained")
        axis = figure.subplots()
        axis.plot([0, 1], label="a_b")
        axis.legend()
        save_figure(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert not any("$" in label.get_text() for label in axis.get_xticklabels())
