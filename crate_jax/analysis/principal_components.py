"""Colours for the parts of an image: principal components of its patches' codes, over several images together.

The official recipe: U^T LN(z) of a late layer, class token dropped; PCA over all patches of all images; the first
component is cut by a threshold into foreground and background, holes are filled; a second PCA on the foreground alone,
three components as red, green and blue. (The threshold is Otsu's, and the foreground the side that touches the images'
borders less: both are ours, the official ones are set by hand.)
"""

import numpy as np
from scipy.ndimage import binary_fill_holes

from crate_jax.evaluation.scatter import principal_components


def _to_unit(scores_NxC):
    """Each component from its 2nd to its 98th percentile to 0 .. 1."""
    low, high = np.percentile(scores_NxC, [2, 98], axis=0)
    return np.clip((scores_NxC - low) / np.maximum(high - low, 1e-12), 0, 1)


def two_groups(scores):
    """Otsu's threshold (1979), exactly: the cut that leaves the least variance within the two groups."""
    ordered = np.sort(np.asarray(scores, np.float64).reshape(-1))
    if len(ordered) < 2:
        return -np.inf
    below = np.arange(1, len(ordered))
    total = np.cumsum(ordered)
    mean_below, mean_above = total[:-1] / below, (total[-1] - total[:-1]) / (len(ordered) - below)
    cut = np.argmax(below * (len(ordered) - below) * (mean_above - mean_below) ** 2)
    return (ordered[cut] + ordered[cut + 1]) / 2


def foreground(score_BxRxC):
    """Which patches belong to the subject: Otsu's threshold on the first component, holes filled.

    Returns:
        inside_BxRxC, bool.
    """
    above = score_BxRxC > two_groups(score_BxRxC)
    border = np.ones(score_BxRxC.shape[1:], bool)
    border[1:-1, 1:-1] = False
    if above[:, border].mean() > above.mean():  # the side that keeps to the border is the background
        above = ~above
    return np.stack([binary_fill_holes(one) for one in above])


def colours(codes_BxTxD, grid):
    """Principal components of patch codes as pictures.

    Args:
        codes_BxTxD: class token first, as `subspace_codes` gives them.
        grid: (rows, columns) of patches.

    Returns:
        A dictionary: `first_BxRxC` (the first component, 0 to 1), `inside_BxRxC` (foreground), `rgb_BxRxCx3` (the
        second PCA's three components, background black), `all_BxRxCx3` (three components over all patches) and
        `share_3`, `inside_share_3` (of the variance).
    """
    codes = np.asarray(codes_BxTxD, np.float32)[:, 1:]
    batch, width = len(codes), codes.shape[-1]
    scores, share = principal_components(codes.reshape(-1, width), 3)
    first = scores[:, 0].reshape(batch, *grid)
    inside = foreground(first)
    rgb, inside_share = np.zeros((batch * grid[0] * grid[1], 3)), np.zeros(3)
    flat = inside.reshape(-1)
    if flat.sum() > 3:
        second, inside_share = principal_components(codes.reshape(-1, width)[flat], 3)
        rgb[flat] = 0.15 + 0.85 * _to_unit(second)
    return {
        "first_BxRxC": _to_unit(scores[:, :1]).reshape(batch, *grid),
        "inside_BxRxC": inside,
        "rgb_BxRxCx3": rgb.reshape(batch, *grid, 3),
        "all_BxRxCx3": _to_unit(scores).reshape(batch, *grid, 3),
        "share_3": share,
        "inside_share_3": inside_share,
    }
