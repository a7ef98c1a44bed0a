"""What was found in each figure, as sentences computed from its numbers.

What a figure shows and how to read it stands in `templates/words.toml`; whether a claim of the theory holds is decided
in `claims`, with intervals and thresholds. Each function here returns the sentences of one section.
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
    """Means over images, an entry per encoder layer; None where they were not measured."""
    measured = study.layers.get(kind, {}).get(key)
    return None if measured is None else measured[: study.model.depth].mean(1)


def on_layers(study):
    """Coding rates and sparsity by layer."""
    words = []
    rate, fresh = (encoder_means(study, "coding_rate_orthonormal", kind) for kind in ("network", "untrained"))
    if rate is not None:
        rises = np.flatnonzero(np.diff(rate) > 0) + 1
        words.append(
            f"With orthonormal U, R^c goes from {rate[0]:.0f} nats after the first encoder layer to "
            f"{rate[-1]:.0f} after "
            f"the last, and rises at {_list(rises)}."
        )
        raw = encoder_means(study, "coding_rate")
        words.append(
            f"With the learned U, whose scale counts as well, it goes from {raw[0]:.0f} to {raw[-1]:.0f} nats."
        )
    if fresh is not None:
        words.append(
            f"The untrained network goes from {fresh[0]:.0f} to {fresh[-1]:.0f} nats (orthonormal U)"
            + (": random weights compress too." if fresh[-1] < fresh[0] else ".")
        )
    nonzero = encoder_means(study, "nonzero")
    if nonzero is not None:
        words.append(
            f"{nonzero[0]:.0%} of the code entries are non-zero after the first layer, {nonzero[-1]:.0%} after "
            f"the last."
        )
    train = encoder_means(study, "coding_rate", "training images")
    if train is not None:
        gap = np.max(np.abs(train / encoder_means(study, "coding_rate") - 1))
        words.append(f"On training images R^c differs by {gap:.0%} at most.")
    rank, features = encoder_means(study, "effective_rank"), encoder_means(study, "feature_rank")
    words.append(
        f"An image's tokens have an effective rank of {rank[0]:.1f} after the first layer and {rank[-1]:.1f} after the "
        f"last. Feature rank is highest after encoder layer {features.argmax()} ({features.max():.1f})."
    )
    return words


def on_objective(study):
    """The terms of the sparse rate reduction around each half-layer."""
    terms = {key: value.mean(-1) for key, value in study.parts["half_layers_encoder"].items()}
    rate, gain = terms["coding_rate_orthonormal"], terms["rate"] - terms["coding_rate_orthonormal"]
    raised = np.flatnonzero(rate[:, 1] > rate[:, 0])
    form = "{:+.1%}"
    words = [
        f"Compression changes R^c (orthonormal U) by {_range(rate[:, 1] / rate[:, 0] - 1, form)} per layer and "
        f"raises it "
        f"at {_list(raised)}; R changes by {_range(terms['rate'][:, 1] / terms['rate'][:, 0] - 1, form)}.",
        f"R - R^c changes by {_range(gain[:, 1] - gain[:, 0], '{:+.0f}')} nats per compression.",
    ]
    if gain.shape[1] > 2:
        denser = np.flatnonzero(terms["l1"][:, 2] > terms["l1"][:, 1])
        words[1] = (
            f"R - R^c changes by {_range(gain[:, 1] - gain[:, 0], '{:+.0f}')} nats per compression and by "
            f"{_range(gain[:, 2] - gain[:, 1], '{:+.0f}')} per sparsification."
        )
        words.append(f"Sparsification makes tokens less sparse at {_list(denser)}.")
    raw = terms["rate"] - terms["coding_rate"]
    if gain.max() < 0:
        words.append("R - R^c is negative throughout, with orthonormal U too: the subspaces overlap.")
    elif raw.max() < 0:
        words.append(
            "With the learned U R - R^c is negative throughout, with orthonormal U it is not: U's scale does it."
        )
    return words


def on_steps(study):
    """Each layer's steps against what they descend."""
    steps = {key: value.mean(-1) for key, value in study.parts["steps"].items()}
    form = "{:+.2f}"
    words = [
        f"What compression adds has a cosine of {_range(steps['added_cosine'], form)} with the descent direction of "
        f"R^c(LN(z)), taken through LayerNorm; it ascends at {_list(np.flatnonzero(steps['added_cosine'] < 0))}."
    ]
    if "tied_cosine" in steps:
        words.append(
            f"The paper's convex form, MSSA(LN(z)) - LN(z) with U itself as the output projection, has "
            f"{_range(steps['tied_cosine'], form)}."
        )
    if "lasso_after" in steps:
        worse = np.flatnonzero(steps["lasso_after"] > steps["lasso_start"])
        step = np.array([one["step"] for one in study.parts["dictionaries"].values()])
        long = np.flatnonzero(step > 1)
        descent = f"guaranteed at every layer but {_list(long)}" if len(long) else "guaranteed at every layer"
        if len(long) == len(step):
            descent = "guaranteed at no layer"
        words.append(f"The step eta ||D||^2 is {_range(step)}: descent is {descent}.")
        words.append(f"The objective rises at {_list(worse)}.")
    return words


def on_spectra(study):
    """How many directions tokens fill."""

    def directions(name):
        return int(np.searchsorted(np.cumsum(study.parts["spectra"][name]), 0.9) + 1)

    first, last = (directions(study.model.encoder_names[k]) for k in (0, -1))
    words = [f"90 % of the energy lies in {first} directions after the first encoder layer, in {last} after the last."]
    if getattr(study.model, "decoder_names", None):
        words.append(f"After the decoder's last layer it is {directions(study.model.decoder_names[-1])}.")
    return words


def on_subspaces(study):
    """Bases: orthonormal? orthogonal?"""
    held = study.parts["subspaces"]
    spectra = np.array([one["spectrum_KxP"] for one in held.values()])
    condition = (spectra[..., 0] / np.maximum(spectra[..., -1], 1e-9)).mean(1)
    words = [f"The largest singular value of a U_k is {_range(condition, '{:.1f}')} times the smallest."]
    heads, size = spectra.shape[1:]
    if heads > 1:
        overlaps = np.array([one["overlap_KxK"][~np.eye(heads, dtype=bool)] for one in held.values()])
        words.append(
            f"Two subspaces have a mean overlap of {_range(overlaps.mean(1))}, where random ones have "
            f"{size / study.model.width:.2f}; the closest two have {overlaps.max():.2f}."
        )
    return words


def on_usage(study):
    """How much of the dictionary is used."""
    usage = study.parts["usage"]
    dead, always = (usage.max(-1) <= 0).mean(1), (usage.mean(-1) > 0.95).mean(1)
    form = "{:.0%}"
    return [
        f"{_range(dead, form)} of a layer's atoms are never active on these images, {_range(always, form)} are "
        f"active on "
        f"more than 95 % of the patches."
    ]


def on_atoms(study):
    """Atoms by their patches: for the eye."""
    return ["Nothing is computed here: judge by eye."]


def on_attention(study):
    """Where the subspaces attend."""
    late, grid = study.parts["codes_layer"], study.parts["grid"]
    peak, own = encoder_means(study, "attention_peak"), encoder_means(study, "attention_self")
    return [
        f"In layer {late} a token gives {own[late]:.1%} of its attention to itself (uniform attention would be "
        f"{1 / (grid[0] * grid[1] + 1):.1%}), and the most attended token receives {peak[late]:.1%}."
    ]


def on_colours(study):
    """Principal components."""
    found = study.parts["colours"]
    return [
        f"Encoder layer {study.parts['codes_layer']}: the first component holds {found['share_3'][0]:.0%} of "
        f"the variance "
        f"of all patches, the first three {found['share_3'].sum():.0%}; {found['inside_BxRxC'].mean():.0%} of "
        f"the patches "
        f"are foreground."
    ]


def on_inverse(study):
    """The decoder as the encoder's inverse."""
    found = study.parts["inverse"]
    columns = np.arange(1, len(found["expected_J"]))
    expected = found["expected_J"][1:]
    cosine, other = (found[key].mean(-1) for key in ("cosine_IxJxB", "cosine_other_image_IxJxB"))
    hits, hits_cka = (int((one[:, 1:].argmax(0) == expected).sum()) for one in (cosine, found["cka_IxJ"]))
    form = "{:+.2f}"
    words = [
        f"Beyond the decoder's first state, the cosine with the predicted encoder state is "
        f"{_range(cosine[expected, columns], form)}, with that of another image "
        f"{_range(other[expected, columns], form)}.",
        f"The predicted state is the nearest for {hits} of {len(expected)} decoder states by cosine, {hits_cka} "
        f"by CKA.",
    ]
    if study.model.depth != len(expected):
        words.append(
            f"The decoder has {len(expected)} layers, the encoder {study.model.depth}: predicted is the same "
            f"fraction of "
            "the way, which the paper does not say."
        )
    return words


def on_denoising(study):
    """Masked tokens beside whole ones along depth."""
    depth = study.parts["depth"]
    visible, error = depth["encoder_visible_IxB"].mean(1), depth["error_JxB"].mean(1)
    seen = "encoder_removed_IxB" in depth
    path = depth["encoder_removed_IxB" if seen else "decoder_removed_JxB"].mean(1)
    where = "encoder" if seen else "decoder (the encoder does not see them)"
    return [
        f"Tokens of removed patches start at a squared distance of {path[0]:.2f} from the whole image's tokens "
        f"and end at "
        f"{path[-1]:.2f} after the {where}.",
        f"Tokens of visible patches are {visible[-1]:.2g} away after the encoder.",
        f"Through the final head, removed patches have an error of {error[0]:.3g} at the decoder's first state and of "
        f"{error[-1]:.3g} at its last.",
    ]


def on_pictures(study):
    """The image along the network: for the eye."""
    words = ["Judge by eye; the errors are in the figure before."]
    if study.parts["norm_pix"]:
        words.append("This network predicts standardised patches: each patch's own mean and deviation were put back.")
    return words


def on_iterative(study):
    """Several passes beside one."""
    found = study.parts["iterative"]
    one = found["certain"]["one_pass_error_B"]
    several, any_order = found["certain"]["iterative_error_B"], found["random"]["iterative_error_B"]
    return [
        f"Squared error of removed patches, {len(one)} images: one pass {one.mean():.4g}; several passes, the "
        f"most certain "
        f"patches first, {several.mean():.4g}; several passes in any order {any_order.mean():.4g}."
    ]


def on_similarity(study):
    """The layers of two networks."""
    cka = study.parts["similarity"]["cka_IxJ"]
    form = "{:.2f}"
    words = [f"Each layer's most similar layer of the other network has a CKA of {_range(cka.max(1), form)}."]
    if cka.shape[0] == cka.shape[1]:
        words.append(f"The same layer of both has {_range(np.diag(cka), form)}.")
    return words
