"""Figures of numbers: from a `Study` to matplotlib figures, nothing measured here."""

import numpy as np

from crate_jax.analysis.figure_style import BLUE, GREEN, LINES, ORANGE, OTHER, PINK, RED, layer_axis, short_name
from crate_jax.figures import GREY, label, panels


def layer_curves(study):
    """Coding rates, sparsity and statistics of the tokens, by layer."""
    wanted = {
        "coding_rate_orthonormal": ("$R^c$, orthonormal bases of $U_k$", "nats, eps = 0.5"),
        "coding_rate": ("$R^c$, learned $U_k$ (grows with |U|)", "nats, eps = 0.5"),
        "coding_rate_official": ("the official script's $R^c$", "nats, unit codes"),
        "nonzero": ("non-zero entries of the sparse codes", "fraction"),
        "effective_rank": ("effective rank of an image's tokens", "directions"),
        "token_similarity": ("cosine between two tokens", ""),
        "feature_rank": ("feature rank", "effective number of features"),
        "attention_self": ("attention of a token to itself", "mean weight"),
    }
    wanted = {key: text for key, text in wanted.items() if key in study.layers["network"]}
    columns = 2 if len(wanted) == 4 else min(3, len(wanted))
    figure, axes = panels(columns, -(-len(wanted) // columns))
    for axis, (key, (title, unit)) in zip(axes.reshape(-1), wanted.items(), strict=False):
        for kind, layers in study.layers.items():
            if key not in layers:
                continue
            mean, deviation = layers[key].mean(1), layers[key].std(1)
            rows = np.flatnonzero(np.isfinite(mean))
            axis.plot(rows, mean[rows], markersize=3.5, linewidth=1.4, label=_short(kind), **LINES.get(kind, OTHER))
            if kind == "network":
                low, high = mean - deviation, mean + deviation
                axis.fill_between(rows, low[rows], high[rows], alpha=0.18, color=BLUE, linewidth=0)
        label(axis, title=title, y=unit, x="layer (E encoder, D decoder)")
        layer_axis(axis, study.names)
    axes[0][0].legend(fontsize=8, frameon=False)
    for axis in axes.reshape(-1)[len(wanted) :]:
        axis.set_axis_off()
    return figure


def _short(name, most=24):
    """The end of a long name: of a path the part that tells runs apart."""
    return name if len(name) <= most else "..." + name[3 - most :]


def similarity_map(study):
    """CKA between the layers of two networks."""
    held = study.parts["similarity"]
    figure, axes = panels(1, size=(4.6, 3.8))
    axis = axes[0][0]
    shown = axis.imshow(held["cka_IxJ"], cmap="viridis", vmin=0, vmax=1, origin="lower", aspect="auto")
    figure.colorbar(shown, ax=axis, shrink=0.85)
    label(axis, title="debiased linear CKA", x=f"layers of {_short(held['name'])}", y="layers of this network")
    axis.grid(False)
    other = study.others[held["name"]].names
    for ticks, names in ((axis.set_xticks, other), (axis.set_yticks, study.names)):
        step = max(1, len(names) // 12)
        ticks(range(0, len(names), step), list(map(short_name, names))[::step])
    return figure


def objective_curves(study):
    """The terms of the sparse rate reduction around each half-layer."""
    figure, axes = panels(3)
    axes = axes[0]
    terms = study.parts["half_layers_encoder"]
    depth = len(terms["rate"])
    place = np.arange(depth)[:, None] + np.linspace(0, 1, terms["rate"].shape[1])
    mean = {key: value.mean(-1) for key, value in terms.items()}
    for layer in range(depth):
        first = layer == 0
        axes[0].plot(place[layer], mean["rate"][layer], "-o", color=GREEN, markersize=3, label="R" if first else None)
        for key, name, line in (
            ("coding_rate_orthonormal", "$R^c$, orthonormal U", "-s"), ("coding_rate", "$R^c$, learned U", ":s"),
        ):  # fmt: skip
            axes[0].plot(place[layer], mean[key][layer], line, color=BLUE, markersize=3, label=name if first else None)
    label(axes[0], title="R and $R^c$: before, compressed, sparse", x="encoder layer", y="nats", legend=True)
    gain = mean["rate"] - mean["coding_rate_orthonormal"]
    bars = {"by compression": (gain[:, 1] - gain[:, 0], BLUE)}
    if gain.shape[1] > 2:
        bars["by sparsification"] = (gain[:, 2] - gain[:, 1], ORANGE)
    for number, (name, (height, colour)) in enumerate(bars.items()):
        axes[1].bar(np.arange(depth) + 0.4 * number - 0.2, height, 0.4, color=colour, label=name)
    axes[1].axhline(0, color=GREY, linewidth=0.8)
    axes[1].margins(y=0.25)  # the legend covers no bar
    label(axes[1], title="change of R - $R^c$, orthonormal U (up is better)", x="encoder layer", y="nats", legend=True)
    for layer in range(depth):
        axes[2].plot(place[layer], mean["l1"][layer], "-o", color=PINK, markersize=3)
    label(axes[2], title="mean |x| of tokens with unit RMS", x="encoder layer", y="down is sparser")
    return figure


def step_curves(study):
    """Each encoder layer's own steps: does compression descend on R^c, does ISTA descend on LASSO?"""
    figure, axes = panels(3 if "lasso_after" in study.parts["steps"] else 1)
    axes = axes[0]
    steps = {key: value.mean(-1) for key, value in study.parts["steps"].items()}
    layers = np.arange(len(steps["added_cosine"]))
    axes[0].axhline(0, color=GREY, linewidth=0.8)
    axes[0].plot(layers, steps["added_cosine"], "-o", color=BLUE, markersize=4, label="what the layer adds")
    if "tied_cosine" in steps:
        style = {"color": ORANGE, "markersize": 4, "label": "MSSA(LN(z)) - LN(z), as in the paper"}
        axes[0].plot(layers, steps["tied_cosine"], ":s", **style)
    axes[0].set_ylim(-1.05, 1.05)
    label(axes[0], title="cosine with the descent of $R^c$(LN(z))", x="encoder layer", y="> 0 compresses", legend=True)
    if "lasso_after" not in steps:
        return figure
    for key, name, style in (
        ("lasso_start", "non-negative start", {"color": ORANGE, "marker": "s", "linestyle": "--"}),
        ("lasso_after", "after the layer's steps", {"color": BLUE, "marker": "o"}),
    ):
        axes[1].plot(layers, steps[key], markersize=4, label=name, **style)
    label(axes[1], title="LASSO objective per token", x="encoder layer", y="1/2 |x - Da|² + λ|a|", legend=True)
    step = [one["step"] for one in study.parts["dictionaries"].values()]
    axes[2].bar(layers, step, color=[RED if one > 1 else BLUE for one in step])
    axes[2].axhline(1, color=GREY, linewidth=1.2, linestyle="--")
    label(axes[2], title="ISTA's step η||D||²", x="encoder layer", y="descent is guaranteed below 1")
    return figure


def spectrum_curves(study):
    """How many directions the tokens of each layer fill."""
    figure, axes = panels(2)
    axes = axes[0]
    for axis, part in zip(axes, ("encoder", "decoder"), strict=True):
        names = [name for name in study.names if name.startswith(part)]
        if not names:
            axis.set_axis_off()
            continue
        for row, name in enumerate(names):
            share = np.cumsum(study.parts["spectra"][name])
            axis.plot(np.arange(1, len(share) + 1), share, color=_along(row, len(names)), linewidth=1.2)
        axis.set_xscale("log")
        label(axis, title=f"{part}: dark first layer, light last", x="directions", y="fraction of the energy")
    return figure


def _along(row, count):
    import matplotlib

    return matplotlib.colormaps["viridis"](0.05 + 0.85 * row / max(count - 1, 1))


def subspace_figures(study):
    """Spectra of the U_k and D, and how much the subspaces share."""
    parts = study.parts
    names = list(parts["subspaces"])
    dictionaries = parts.get("dictionaries", {})
    figure, axes = panels(3 if dictionaries else 2)
    axes = axes[0]
    for row, name in enumerate(names):
        spectrum = parts["subspaces"][name]["spectrum_KxP"].mean(0)
        style = "-" if name.startswith("encoder") else ":"
        axes[0].plot(np.arange(1, len(spectrum) + 1), spectrum, style, color=_along(row, len(names)), linewidth=1.2)
    axes[0].set_ylim(0)
    label(axes[0], title="singular values of $U_k$ (mean over k)", x="direction", y="flat: orthonormal up to scale")
    heads = parts["subspaces"][names[0]]["overlap_KxK"].shape[0]
    size = parts["subspaces"][names[0]]["spectrum_KxP"].shape[1]
    if heads > 1:
        off = ~np.eye(heads, dtype=bool)
        for kind, held in {"network": parts, **{k: one.parts for k, one in study.others.items()}}.items():
            if list(held.get("subspaces", ())) == names:
                values = np.array([held["subspaces"][name]["overlap_KxK"][off].mean() for name in names])
                largest = np.array([held["subspaces"][name]["overlap_KxK"][off].max() for name in names])
                axes[1].plot(values, markersize=4, label=f"{_short(kind)}, mean", **LINES.get(kind, OTHER))
                if kind == "network":
                    axes[1].plot(largest, "--", color=BLUE, linewidth=1, label="network, closest two")
        axes[1].axhline(size / study.model.width, color=GREY, linewidth=0.8, linestyle="--", label="random: P/D")
        axes[1].set_ylim(0, 1)
    label(axes[1], title="overlap between subspaces", x="layer", y="0 orthogonal, 1 the same", legend=heads > 1)
    layer_axis(axes[1], names)
    if not dictionaries:
        return figure
    for row, held in enumerate(dictionaries.values()):
        spectrum = held["spectrum_D"]
        colour = _along(row, len(dictionaries))
        axes[2].plot(np.arange(1, len(spectrum) + 1), spectrum, color=colour, linewidth=1.2)
    axes[2].set_ylim(0)
    label(axes[2], title="singular values of D", x="direction", y="dark first layer, light last")
    return figure


def usage_curves(study):
    """How often each atom is used, sorted, and how many are dead."""
    figure, axes = panels(2)
    axes = axes[0]
    usage_LxD = study.parts["usage"].mean(-1)
    for row, usage_D in enumerate(usage_LxD):
        axes[0].plot(np.sort(usage_D)[::-1], color=_along(row, len(usage_LxD)), linewidth=1.2)
    label(axes[0], title="how often an atom is active", x="atom, by rank", y="fraction of patches")
    dead = (study.parts["usage"].max(-1) <= 0).mean(1)
    axes[1].bar(np.arange(len(dead)), 100 * dead, color=RED)
    axes[1].set_ylim(0, max(5.0, 110 * dead.max()))
    label(axes[1], title="atoms that no patch activates", x="encoder layer", y="% of atoms")
    return figure


def inverse_maps(study):
    """Encoder states against decoder states."""
    found = study.parts["inverse"]
    figure, axes = panels(3)
    axes = axes[0]
    expected = found["expected_J"]
    columns = np.arange(len(expected))
    cosine, other = (found[key].mean(-1) for key in ("cosine_IxJxB", "cosine_other_image_IxJxB"))
    for axis, (values, title) in zip(
        axes, ((cosine, "cosine"), (found["cka_IxJ"], "debiased linear CKA")), strict=False
    ):
        low, high = min(0.0, float(values.min())), 1
        shown = axis.imshow(values, aspect="auto", cmap="viridis", vmin=low, vmax=high, origin="lower")
        axis.plot(columns, expected, "o", markerfacecolor="none", markeredgecolor="white", markersize=6)
        figure.colorbar(shown, ax=axis, shrink=0.85)
        label(axis, title=f"{title}; rings: predicted", x="decoder state $Y^l$", y="encoder state $Z^l$")
        axis.grid(False)
    lines = {
        "predicted layer": (cosine[expected, columns], {"color": BLUE, "marker": "o"}),
        "mean of all layers": (cosine.mean(0), {"color": ORANGE, "marker": "s", "linestyle": "--"}),
        "another image": (other[expected, columns], {"color": GREY, "marker": "^", "linestyle": ":"}),
    }
    for name, (values, style) in lines.items():
        axes[2].plot(columns, values, markersize=4, label=name, **style)
    label(axes[2], title="cosine along the decoder", x="decoder state $Y^l$", y="", legend=True)
    return figure


def denoising_curves(study):
    """The masked image's tokens beside the whole image's, and the error of their projection to pixels."""
    depth = study.parts["depth"]
    figure, axes = panels(2, size=(4.6, 3.0))
    axes = axes[0]
    start = study.model.depth
    for kind, colour, marker in (("removed", RED, "o"), ("visible", BLUE, "s")):
        for part, offset, suffix in (("encoder", 0, "IxB"), ("decoder", start, "JxB")):
            values = depth.get(f"{part}_{kind}_{suffix}")
            if values is None:
                continue
            name = f"{kind} patches" if part == "decoder" else None
            place = np.arange(len(values)) + offset
            axes[0].plot(place, values.mean(1), marker=marker, color=colour, markersize=4, label=name)
    axes[0].axvline(start, color=GREY, linewidth=0.8)
    axes[0].set_ylim(0)
    x, y = "state (line: encoder to decoder)", "|z - z'|² of unit tokens"
    label(axes[0], title="distance of masked tokens from whole ones", x=x, y=y, legend=True)
    for key, offset, name in (("encoder_error_IxB", 0, None), ("error_JxB", start, "removed patches")):
        if key in depth:
            values = depth[key].mean(1)
            axes[1].plot(np.arange(len(values)) + offset, values, marker="o", color=PINK, markersize=4, label=name)
    axes[1].axvline(start, color=GREY, linewidth=0.8)
    axes[1].set_yscale("log")
    label(axes[1], title="error of the projection to pixels", x=x, y="squared error")
    return figure


def iterative_curves(study):
    """Error of iterative completion beside one pass."""
    figure, axes = panels(1, size=(4.6, 3.0))
    axis = axes[0][0]
    found = study.parts["iterative"]
    one_pass = found["certain"]["one_pass_error_B"].mean()
    styles = {"certain": LINES["network"], "random": LINES["untrained"]}
    for order, style in styles.items():
        held = found[order]
        errors = [*held["after_pass_PxB"].mean(1)[:-1], held["iterative_error_B"].mean()]
        name = "most certain patches first" if order == "certain" else "any patches first"
        axis.plot(np.arange(1, len(errors) + 1), errors, label=name, **style)
    axis.axhline(one_pass, color=GREY, linestyle=":", label="one pass")
    axis.set_xticks(range(1, len(errors) + 1))
    label(axis, title="completion in several passes", x="passes", y="squared error, removed patches", legend=True)
    return figure
