"""What each figure says of this network, in words computed from its numbers; above all where it leaves the theory.

What a figure shows and what the theory predicts stands in `templates/words.toml`. Each function here returns the
sentences for one figure and whether a prediction fails (None where there is nothing to fail).
"""

import numpy as np


def _list(layers):
    layers = [int(layer) for layer in layers]
    if not layers:
        return "no layer"
    return ("layer " if len(layers) == 1 else "layers ") + ", ".join(map(str, layers))


def _range(values, form="{:.2f}"):
    low, high = form.format(np.min(values)), form.format(np.max(values))
    return low if low == high else f"{low} to {high}"


def encoder_means(study, key, kind="network"):
    """Means over images, an entry an encoder layer."""
    return study.layers[kind][key][: study.model.depth].mean(1)


def on_layers(study):
    """Coding rates and sparsity by layer."""
    rich, rank = encoder_means(study, "feature_rank"), encoder_means(study, "effective_rank")
    best = f"Tokens say most different things after encoder layer {rich.argmax()} (feature rank {rich.max():.1f})."
    if not study.has_subspaces:
        return [
            f"An image's tokens fill {rank[0]:.1f} directions after the first layer, {rank[-1]:.1f} after the last.",
            best,
        ], None
    rate, nonzero = encoder_means(study, "coding_rate"), encoder_means(study, "nonzero")
    rises = np.flatnonzero(np.diff(rate) > 0) + 1
    fall = f"and rises at {_list(rises)}, against the prediction." if len(rises) else "and falls at every layer."
    denser = nonzero[-1] > nonzero[0]
    words = [
        f"R^c goes from {rate[0]:.0f} to {rate[-1]:.0f} nats along the encoder {fall}",
        f"ISTA leaves {nonzero[0]:.0%} of the entries after the first layer and {nonzero[-1]:.0%} after the last"
        + (": codes become denser with depth, against the prediction." if denser else "."),
    ]
    if "untrained" in study.layers:
        fresh, fresh_nonzero = (encoder_means(study, key, "untrained") for key in ("coding_rate", "nonzero"))
        too = fresh[-1] < fresh[0] and rate[-1] < rate[0]
        words.append(
            f"The same network untrained has R^c from {fresh[0]:.0f} to {fresh[-1]:.0f} nats and "
            f"{fresh_nonzero[-1]:.0%} "
            f"non-zero at the end"
            + (": random weights compress too; a falling curve proves no learning." if too else ".")
        )
    if "training images" in study.layers:
        gap = np.max(np.abs(encoder_means(study, "coding_rate", "training images") / rate - 1))
        words.append(f"On training images R^c differs by {gap:.0%} at most.")
    return [*words, best], bool(len(rises) or denser)


def on_objective(study):
    """The terms of the sparse rate reduction around each half-layer."""
    terms = {key: value.mean(-1) for key, value in study.parts["half_layers_encoder"].items()}
    gain = terms["rate"] - terms["coding_rate"]
    compress, sparsify = gain[:, 1] - gain[:, 0], gain[:, 2] - gain[:, 1]
    raised = np.flatnonzero(terms["coding_rate"][:, 1] > terms["coding_rate"][:, 0])
    denser = np.flatnonzero(terms["l1"][:, 2] > terms["l1"][:, 1])
    form = "{:+.0f}"
    words = [
        f"Compression changes R - R^c by {_range(compress, form)} nats a layer, sparsification by "
        f"{_range(sparsify, form)}.",
        f"Compression raises R^c itself at {_list(raised)}"
        + (": with a skip connection and a learned projection MSSA can expand." if len(raised) else ", as predicted."),
        f"Sparsification makes tokens less sparse at {_list(denser)}.",
        f"In all, R - R^c goes from {gain[0, 0]:.0f} before the first layer to {gain[-1, 2]:.0f} after the last.",
    ]
    if gain.max() < 0:
        words.append(
            "R - R^c is negative throughout: the subspaces overlap, so coding in all of them costs more than R."
        )
    return words, bool(len(raised) or np.any(compress < 0) or len(denser))


def on_steps(study):
    """Each layer's steps against what they descend on."""
    steps = {key: value.mean(-1) for key, value in study.parts["steps"].items()}
    climbs = np.flatnonzero(steps["added_cosine"] < 0)
    worse = np.flatnonzero(steps["lasso_after"] > steps["lasso_positive"])
    step = np.array([study.parts["dictionaries"][name]["step"] for name in study.model.encoder_names])
    form = "{:+.2f}"
    words = [
        f"What compression adds has a cosine of {_range(steps['added_cosine'], form)} with the descent of R^c; "
        "it points "
        f"uphill at {_list(climbs)}.",
        f"The paper's direction, U as the output projection, has {_range(steps['tied_cosine'], form)}.",
        f"ISTA's step is {_range(step)}; descent is not guaranteed at {_list(np.flatnonzero(step > 1))}. It raises the "
        f"objective of its non-negative start at {_list(worse)}.",
    ]
    return words, bool(np.any(steps["added_cosine"] < 0.5) or len(worse) or np.any(step > 1))


def on_spectra(study):
    """How many directions tokens fill."""

    def directions(name):
        return int(np.searchsorted(np.cumsum(study.parts["spectra"][name]), 0.9) + 1)

    first, last = (directions(study.model.encoder_names[k]) for k in (0, -1))
    words = [f"90 % of the energy lies in {first} directions after the first encoder layer, in {last} after the last."]
    if getattr(study.model, "decoder_names", None):
        words.append(f"After the decoder's last layer it is {directions(study.model.decoder_names[-1])}.")
    return words, last > first or last == 1


def on_subspaces(study):
    """Bases: orthonormal? orthogonal?"""
    held = study.parts["subspaces"]
    spectra = np.array([one["spectrum_KxP"].mean(0) for one in held.values()])
    condition = spectra[:, 0] / np.maximum(spectra[:, -1], 1e-9)
    words = [f"The largest singular value of a U_k is {_range(condition, '{:.1f}')} times the smallest."]
    heads, size = next(iter(held.values()))["spectrum_KxP"].shape
    departs = condition.max() > 2
    if heads > 1:
        overlaps = np.array([one["overlap_KxK"][~np.eye(heads, dtype=bool)] for one in held.values()])
        random = size / study.model.width
        words.append(
            f"Two subspaces share {_range(overlaps.mean(1))} on average, where random ones share {random:.2f}; "
            "the closest "
            f"two share {overlaps.max():.2f}."
        )
        departs = departs or overlaps.mean() > random / 2
    return words, bool(departs)


def on_usage(study):
    """What of the dictionary is used."""
    dead = (study.parts["usage"].max(-1) <= 0).mean(1)
    always = (study.parts["usage"].mean(-1) > 0.95).mean(1)
    form = "{:.0%}"
    words = [
        f"Of a layer's atoms {_range(dead, form)} are dead on these images, and {_range(always, form)} are "
        "active on more "
        f"than 95 % of the patches."
    ]
    return words, bool(dead.max() > 0 or always.max() > 0.01)


def on_atoms(study):
    """Atoms by their patches: for the eye."""
    return ["Judge by eye: no number is computed here."], None


def on_attention(study):
    """Where the subspaces look."""
    late, grid = study.parts["codes_layer"], study.parts["grid"]
    peak, own = encoder_means(study, "attention_peak"), encoder_means(study, "attention_self")
    return [
        f"In layer {late} a token gives {own[late]:.1%} of its attention to itself (evenly spread it would be "
        f"{1 / (grid[0] * grid[1] + 1):.1%}), and the most attended token receives {peak[late]:.1%}."
    ], None


def on_colours(study):
    """Principal components."""
    found = study.parts["colours"]
    return [
        f"Encoder layer {study.parts['codes_layer']}: the first component holds {found['share_3'][0]:.0%} of "
        "the variance of "
        f"all patches, three hold {found['share_3'].sum():.0%}; {found['inside_BxRxC'].mean():.0%} of the patches are "
        f"foreground."
    ], None


def on_inverse(study):
    """The decoder as the encoder's inverse."""
    found = study.parts["inverse"]
    columns = np.arange(1, len(found["expected_J"]))
    expected = found["expected_J"][1:]
    diagonal, other = found["cosine_IxJ"][expected, columns], found["cosine_other_image_IxJ"][expected, columns]
    hits, hits_cka = (int((found[key][:, 1:].argmax(0) == expected).sum()) for key in ("cosine_IxJ", "cka_IxJ"))
    form = "{:+.2f}"
    words = [
        f"Beyond the state they share, the cosine with the predicted encoder state is {_range(diagonal, form)}, "
        "with that of "
        f"another image {_range(other, form)}.",
        f"The predicted state is the nearest for {hits} of {len(expected)} decoder states by cosine, {hits_cka} "
        "by CKA.",
    ]
    if study.model.depth != len(expected):
        words.append(
            f"The decoder has {len(expected)} layers for the encoder's {study.model.depth}; the prediction is "
            "spread over them."
        )
    return words, hits < len(expected)


def on_denoising(study):
    """Masked tokens beside whole ones along depth."""
    depth = study.parts["depth"]
    visible, error = depth["encoder_visible_IxB"].mean(1), depth["error_JxB"].mean(1)
    seen = "encoder_removed_IxB" in depth
    path = depth["encoder_removed_IxB" if seen else "decoder_removed_JxB"].mean(1)
    where = "encoder" if seen else "decoder (the encoder does not see them)"
    closer = path[-1] < path[0]
    words = [
        f"Removed patches begin {path[0]:.2f} from the whole image's tokens and end {path[-1]:.2f} away after "
        f"the {where}: " + ("closer, as predicted." if closer else "not closer, against the prediction."),
        f"What is missing disturbs the visible ones {'hardly' if visible[-1] < 0.05 else 'too'}: they are "
        f"{visible[-1]:.2g} away after the encoder.",
        f"Through the final head, removed patches have an error of {error[0]:.3g} at the decoder's beginning and of "
        f"{error[-1]:.3g} at its end.",
    ]
    return words, not closer


def on_pictures(study):
    """The image along the network: for the eye."""
    words = ["Judge by eye; the errors are in the figure before."]
    if study.parts["norm_pix"]:
        words.append("This network predicts standardised patches: each patch's own mean and deviation were put back.")
    return words, None


def on_iterative(study):
    """Several passes beside one."""
    found = study.parts["iterative"]
    one = found["certain"]["one_pass_error_B"]
    several, any_order = found["certain"]["iterative_error_B"], found["random"]["iterative_error_B"]
    change = several - one
    error = change.std(ddof=1) / len(one) ** 0.5 if len(one) > 1 else np.inf
    verdict = "too close to call" if abs(change.mean()) < 2 * error else "better" if change.mean() < 0 else "worse"
    words = [
        f"Squared error of removed patches: one pass {one.mean():.4g}; several, the most certain first, "
        f"{several.mean():.4g}; "
        f"several in any order {any_order.mean():.4g}.",
        f"Several passes against one: {verdict} ({change.mean():+.2g}, standard error {error:.1g}, {len(one)} images).",
    ]
    return words, verdict != "better"
