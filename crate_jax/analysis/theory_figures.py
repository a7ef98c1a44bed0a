"""Figures of the experiments in `theory`: from their arrays to matplotlib figures."""

import numpy as np

from crate_jax.analysis.figure_style import BLUE, GREEN, ORANGE, RED
from crate_jax.figures import GREY, label, panels


def denoising_figure(by_scale):
    """Compression as denoising: squared error of tokens against the clean ones, over the noise.

    Args:
        by_scale: {name of a logit scale: what `denoising_errors` returned}.
    """
    figure, axes = panels(2, size=(4.4, 3.2))
    axes = axes[0]
    first = next(iter(by_scale.values()))
    axes[0].plot(first["noise"], first["noisy"], color=GREY, linestyle=":", label="noisy")
    axes[0].plot(
        first["noise"], first["posterior"], color=GREEN, marker="^", markersize=4, label="posterior mean (best)"
    )
    axes[1].plot(first["noise"], first["outside_noisy"], color=GREY, linestyle=":")
    for (name, errors), colour, marker in zip(by_scale.items(), (BLUE, ORANGE, RED), "osD", strict=False):
        style = {"color": colour, "marker": marker, "markersize": 4, "label": f"one MSSA step, {name}"}
        axes[0].plot(errors["noise"], errors["mssa"], **style)
        axes[1].plot(errors["noise"], errors["outside_mssa"], **style)
    for axis in axes:
        axis.set_xscale("log")
    axes[0].set_yscale("log")
    label(axes[0], title="distance from the clean token", x="noise sigma", y="squared error / energy")
    label(axes[1], title="energy outside the token's subspace", x="noise sigma", y="share")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def gradient_figure(found):
    """MSSA and the Neumann expansion against the gradient of R^c, over eps: of `mssa_against_gradient`."""
    figure, axes = panels(2, size=(4.4, 3.2))
    axes = axes[0]
    axes[0].plot(found["epsilon"], found["neumann_error"], color=BLUE, marker="o", markersize=4)
    axes[0].axhline(1, color=GREY, linestyle="--", linewidth=0.8)
    axes[0].set_yscale("log")
    axes[1].plot(found["epsilon"], found["mssa_cosine"], color=BLUE, marker="o", markersize=4, label="MSSA(z) - z")
    axes[1].plot(
        found["epsilon"], found["added_cosine"], color=ORANGE, marker="s", markersize=4, label="MSSA(z), added to z"
    )
    axes[1].axhline(0, color=GREY, linewidth=0.8)
    axes[1].set_ylim(-1.05, 1.05)
    for axis in axes:
        axis.set_xscale("log")
    label(axes[0], title="second-order expansion of the gradient", x="eps", y="relative error")
    label(axes[1], title="cosine with the descent of $R^c$", x="eps", y="> 0 compresses", legend=True)
    return figure


def step_figure(objectives, fractions, kappas, reversal):
    """ISTA's descent (of `ista_objectives`) and the reversal of a step (of `reversal_errors`)."""
    figure, axes = panels(2, size=(4.4, 3.2))
    axes = axes[0]
    for row, fraction, colour in zip(objectives, fractions, (BLUE, GREEN, RED, ORANGE), strict=False):
        axes[0].plot(row, color=colour, label=f"step {fraction:g}/L")
    axes[0].set_yscale("log")
    label(axes[0], title="ISTA on its objective", x="iteration", y="1/2 |z - Da|² + λ|a|", legend=True)
    axes[1].loglog(kappas, reversal, color=BLUE, marker="o", markersize=4, label="z undone by the decoder's step")
    second = reversal[0] * (np.asarray(kappas) / kappas[0]) ** 2
    axes[1].loglog(kappas, second, color=GREY, linestyle="--", label="second order")
    label(axes[1], title="reversal of a compression step", x="step kappa", y="relative error", legend=True)
    return figure
