"""The figure that `.plot()` returns: matplotlib's, which a notebook also shows without `%matplotlib inline`."""

from matplotlib.figure import Figure

from crate_jax.figure_files import png_of


class ShownFigure(Figure):
    """A matplotlib `Figure`. As the last value of a cell it is shown, whether or not pyplot was imported before."""

    def _repr_png_(self):
        return png_of(self)
