"""Features in the plane of their first two principal components."""

import numpy as np

from crate_jax.evaluation.feature_store import evenly_spaced
from crate_jax.figures import COLOURS, MARKERS, label, panels

POINTS = 2000  # examples that are drawn, evenly spaced
CLASSES = 24  # that have a colour and a marker of their own; of more, the first


def principal_components(rows_NxD, count):
    """The first `count` components of centred rows: (scores_NxC, share_C of the variance).

    Where there are fewer, the rest is zeros. Each component points to where its largest entry is positive.
    """
    centred_NxD = np.asarray(rows_NxD, np.float64) - np.mean(rows_NxD, 0, dtype=np.float64)
    left_NxR, singular_R, right_RxD = np.linalg.svd(centred_NxD, full_matrices=False)
    found = min(count, len(singular_R))
    sign_R = np.sign(right_RxD[np.arange(found), np.abs(right_RxD[:found]).argmax(1)])
    scores_NxC, share_C = np.zeros((len(centred_NxD), count)), np.zeros(count)
    scores_NxC[:, :found] = left_NxR[:, :found] * singular_R[:found] * sign_R
    share_C[:found] = singular_R[:found] ** 2 / max(np.sum(singular_R**2), 1e-30)
    return scores_NxC, share_C


def scatter_figure(features_NxG, label_N, called, caption):
    """A matplotlib figure with a point an example; of more than `POINTS`, evenly spaced ones are drawn.

    `label_N` are integers, -1 where there is none; `called` is a function from a label to its name.
    """
    shown = evenly_spaced(len(label_N), POINTS)
    xy_Nx2, share_2 = principal_components(features_NxG[shown], 2)
    figure, ((axis,),) = panels(1, size=(6.6, 4.6))
    classes = np.unique(label_N[shown])
    if len(classes) > CLASSES:
        caption = f"{caption}: {CLASSES} of {len(classes)} classes"
    for number, one in enumerate(classes[:CLASSES]):
        of_class = xy_Nx2[label_N[shown] == one]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
        name = called(one) if one >= 0 else "no label"
        axis.scatter(*of_class.T, s=14, color=colour, marker=marker, alpha=0.7, linewidths=0, label=name)
    first = f"first principal component, {share_2[0]:.0%} of the variance"
    label(axis, title=caption, x=first, y=f"second, {share_2[1]:.0%}")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure
