"""Features of a split seen along their first two principal components, coloured by class."""

import numpy as np

from crate_jax.evaluation.figures import COLOURS, MARKERS

MOST = 2000  # examples that are drawn, evenly spaced
CLASSES = 24  # that have a colour and a marker of their own; of more, the first


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
        features_NxG: features; of more than `MOST`, evenly spaced ones are drawn.
        label_N: integers, -1 where there is none.
        called: a function from a label to its name.
        caption: the title.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    shown = np.unique(np.linspace(0, len(label_N) - 1, MOST).round().astype(int))
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
