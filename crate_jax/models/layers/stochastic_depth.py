"""Stochastic depth (Huang et al. 2016): residual branches that are left out for some images of a training batch."""


def drop_path(branch_BxNxD, keep_Bx1x1):
    """A residual branch times 0 or 1 / (1 - rate) for each image; None leaves it alone."""
    return branch_BxNxD if keep_Bx1x1 is None else branch_BxNxD * keep_Bx1x1.astype(branch_BxNxD.dtype)
