"""The theory's claims as measurements: a metric, its 95 % interval over images, an untrained baseline, a verdict.

A verdict compares the interval with a threshold that is fixed beforehand:

    supported        the whole interval is on the claim's side of the threshold
    not supported    the whole interval is on the other side
    inconclusive     the threshold lies inside, or fewer than `FEWEST` images were measured

Intervals are percentile bootstraps (Efron 1979): images are drawn with replacement and the metric is computed from the
means over the draw, worst layers included. Crops of the same photograph are not independent, so intervals over them are
too small. Claims about parameters alone have no interval. Thresholds carry a tolerance, so that one rise of a tenth of
a per cent decides nothing. What holds by construction is no claim: the decoder's first state, for one, is left out.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from crate_jax.evaluation.results import shown_as

DRAWS = 1000
FEWEST = 8
HU = "Hu, Zou & Xu (NeurIPS 2024, arXiv 2411.17182) show why: MSSA with its skip connection ascends R^c."
CRATE_S = "The published curve of supervised CRATE-S is not monotone either: its largest rise is 7.2 %."


@dataclasses.dataclass(frozen=True)
class Claim:
    """One row of the report's table.

    Attributes:
        name: key in analysis.json.
        section: of the report, where its figure stands.
        text: what the theory says.
        metric: what is measured.
        statistic: {key: array, images averaged, draws on the last axis} to one value per draw.
        values: {key: array with images on the last axis}; arrays of parameters where `exact`.
        limit: the threshold.
        below: the claim holds at or below the threshold, not at or above it.
        form: format of a value: "%" (per cent), "pp" (percentage points) or a format specification.
        note: what a reader of the verdict should know.
        exact: a property of the parameters, not of images.
    """

    name: str
    section: str
    text: str
    metric: str
    statistic: Callable
    values: dict
    limit: float
    below: bool = True
    form: str = "%"
    note: str = ""
    exact: bool = False

    def shown(self, value):
        """A value as text."""
        return shown_as(value, self.form)

    @property
    def threshold(self):
        """Such as "at most +1.0 %"."""
        return f"{'at most' if self.below else 'at least'} {self.shown(self.limit)}"


def bootstrap(statistic, values, *, draws=DRAWS, seed=0):
    """A statistic of means over images, and its percentile bootstrap.

    Args:
        statistic: {key: (..., draws)} to (draws,).
        values: {key: (..., B)}.
        draws: samples of B images with replacement.
        seed: of the draws.

    Returns:
        (value, (low, high)): the statistic of all images, and its 2.5th and 97.5th percentiles; None in the pair's
        place for fewer than `FEWEST` images.
    """
    counts = {np.asarray(value).shape[-1] for value in values.values()}
    if len(counts) != 1:
        raise ValueError(f"arrays over different numbers of images: {sorted(counts)}")
    (count,) = counts
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws) / count
    weights_BxR = np.concatenate([np.full((1, count), 1 / count), weights]).T.astype(np.float32)
    found = np.asarray(statistic({key: np.asarray(value, np.float32) @ weights_BxR for key, value in values.items()}))
    if count < FEWEST:
        return float(found[0]), None
    return float(found[0]), tuple(float(x) for x in np.percentile(found[1:], [2.5, 97.5]))


def verdict(value, interval, limit, *, below=True, exact=False):
    """ "supported", "not supported" or "inconclusive"."""
    if exact:
        interval = (value, value)
    if interval is None or not np.all(np.isfinite(interval)):
        return "inconclusive"
    low, high = interval
    holds, fails = (high <= limit, low > limit) if below else (low >= limit, high < limit)
    return "supported" if holds else "not supported" if fails else "inconclusive"


def measured(claim):
    """Value, interval and verdict of a claim.

    Returns:
        A dictionary: `value`, `interval` (a pair or None), `verdict`.
    """
    if claim.exact:
        value, interval = float(claim.statistic(claim.values)), None
    else:
        value, interval = bootstrap(claim.statistic, claim.values)
    judged = verdict(value, interval, claim.limit, below=claim.below, exact=claim.exact)
    return {"value": value, "interval": interval, "verdict": judged}


def judge(study):
    """Every claim that a network's measurements can decide.

    Args:
        study: a `study.Study`; its `others` (the untrained network, a second run) are baselines.

    Returns:
        A list of dictionaries: `name`, `section`, `claim`, `metric`, `value`, `interval`, `verdict`, `threshold`
        (text), `limit`, `form`, `note`, `exact`, `shown` (value and interval as text), and `baselines`: by name
        `value`, `interval`, `verdict` and `shown`, None where it has no such measurement.
    """
    others = {name: {claim.name: claim for claim in claims(other)} for name, other in study.others.items()}
    rows = []
    for claim in claims(study):
        row = {
            "name": claim.name, "section": claim.section, "claim": claim.text, "metric": claim.metric,
            "threshold": claim.threshold, "limit": claim.limit, "form": claim.form, "exact": claim.exact,
        }  # fmt: skip
        row |= _with_text(claim)
        explains = claim.note not in (HU, CRATE_S) or (_is_official(study.model) and row["verdict"] != "supported")
        row["note"] = claim.note if explains else ""
        row["baselines"] = {
            name: _with_text(found[claim.name]) if claim.name in found else None for name, found in others.items()
        }
        rows.append(row)
    return rows


def _is_official(model):
    """Whether compression is MSSA added to its input, which the notes on R^c are about."""
    return getattr(model, "compression", None) == "mssa" and model.compression_step == "add"


def _with_text(claim):
    found = measured(claim)
    shown = claim.shown(found["value"])
    if found["interval"] is not None:
        shown += " [{}, {}]".format(*map(claim.shown, found["interval"]))
    return found | {"shown": shown}


def claims(study):
    """The claims that this network has measurements for, in the order of the report."""
    return [
        claim
        for make in (_of_rates, _of_steps, _of_sparsity, _of_parameters, _of_decoder, _of_completion)
        for claim in make(study)
    ]


def _relative(after, before):
    return after / np.maximum(np.abs(before), 1e-9) - 1


def _of_rates(study):
    rates = study.layers["network"].get("coding_rate_orthonormal")
    if rates is not None and study.model.depth > 1:
        yield Claim(
            "coding_rate_falls", "layers", "The coding rate R^c falls from layer to layer of the encoder.",
            "largest rise of R^c (orthonormal U) from one layer to the next",
            lambda mean: _relative(mean["rate"][1:], mean["rate"][:-1]).max(0),
            {"rate": rates[: study.model.depth]}, 0.01, note=CRATE_S,
        )  # fmt: skip
    terms = study.parts.get("half_layers_encoder")
    if terms is None:
        return
    key = "coding_rate_orthonormal"
    yield Claim(
        "compression_lowers_coding_rate", "objective", "Compression lowers R^c in every layer.",
        "change of R^c (orthonormal U) by a layer's compression, worst layer",
        lambda mean: _relative(mean[key][:, 1], mean[key][:, 0]).max(0), {key: terms[key]}, -0.01, note=HU,
    )  # fmt: skip
    yield Claim(
        "compression_keeps_rate", "objective", "Compression leaves the rate of all tokens, R, as it is.",
        "largest change of R by a layer's compression, up or down",
        lambda mean: np.abs(_relative(mean["rate"][:, 1], mean["rate"][:, 0])).max(0), {"rate": terms["rate"]}, 0.05,
    )  # fmt: skip
    yield Claim(
        "compression_raises_gain", "objective", "Compression raises the rate reduction R - R^c in every layer.",
        "change of R - R^c (orthonormal U) by a layer's compression, worst layer, nats",
        lambda mean: ((mean["rate"] - mean[key])[:, 1] - (mean["rate"] - mean[key])[:, 0]).min(0),
        {"rate": terms["rate"], key: terms[key]}, 1.0, below=False, form="+.1f",
    )  # fmt: skip


def _of_steps(study):
    steps = study.parts.get("steps", {})
    if "added_cosine" in steps:
        yield Claim(
            "compression_descends", "steps", "Compression is a gradient step that descends R^c.",
            "cosine of what compression adds with the descent direction of R^c(LN(z)), worst layer",
            lambda mean: mean["cosine"].min(0), {"cosine": steps["added_cosine"]}, 0.5, below=False, form="+.3f",
            note=HU,
        )  # fmt: skip
    if "lasso_after" in steps:
        yield Claim(
            "sparsification_descends", "steps", "Sparsification is a proximal step that lowers the LASSO objective.",
            "change of the objective from the non-negative start, worst layer",
            lambda mean: _relative(mean["after"], mean["start"]).max(0),
            {"after": steps["lasso_after"], "start": steps["lasso_start"]}, -0.01,
        )  # fmt: skip


def _of_sparsity(study):
    nonzero = study.layers["network"].get("nonzero")
    if nonzero is not None and study.model.depth > 1:
        yield Claim(
            "codes_get_sparser", "layers", "Codes become sparser with depth.",
            "fraction of non-zero entries, last encoder layer minus first",
            lambda mean: mean["nonzero"][-1] - mean["nonzero"][0],
            {"nonzero": nonzero[: study.model.depth]}, -0.01, form="pp",
        )  # fmt: skip
    if "usage" in study.parts:
        yield Claim(
            "atoms_are_used", "usage", "Every atom of the dictionaries is used.",
            "atoms active on fewer than 1 in 1,000 patches, worst layer",
            lambda mean: (mean["usage"] < 0.001).mean(1).max(0), {"usage": study.parts["usage"]}, 0.01,
            note="A draw of images misses rare activations, so the interval lies above the value.",
        )  # fmt: skip


def _of_parameters(study):
    if study.parts.get("dictionaries"):
        held = study.parts["dictionaries"].values()
        yield Claim(
            "ista_step_is_short_enough", "steps", "ISTA's step is short enough for a sure descent.",
            "eta ||D||^2, worst layer", lambda value: value["step"].max(),
            {"step": np.array([one["step"] for one in held])}, 1.0, form=".2f", exact=True,
        )  # fmt: skip
    held = study.parts.get("subspaces")
    if not held:
        return
    spectra = np.array([one["spectrum_KxP"] for one in held.values()])
    yield Claim(
        "bases_are_orthonormal", "subspaces", "Each U_k is an orthonormal basis, up to scale.",
        "largest over smallest singular value of U_k, mean over k, worst layer",
        lambda value: value["condition"].mean(1).max(),
        {"condition": spectra[..., 0] / np.maximum(spectra[..., -1], 1e-9)}, 2.0, form=".1f", exact=True,
    )  # fmt: skip
    heads, size = spectra.shape[1:]
    if heads > 1:
        overlaps = np.array([one["overlap_KxK"][~np.eye(heads, dtype=bool)].mean() for one in held.values()])
        yield Claim(
            "subspaces_are_orthogonal", "subspaces", "Subspaces are orthogonal to one another.",
            "mean overlap of two subspaces, in units of that of random ones (P/D)",
            lambda value: value["overlap"].mean(), {"overlap": overlaps * study.model.width / size}, 0.5,
            form=".2f", exact=True,
        )  # fmt: skip


def _of_decoder(study):
    found = study.parts.get("inverse")
    if found is None or found["cosine_IxJxB"].shape[1] < 2:
        return
    cosine, expected = found["cosine_IxJxB"][:, 1:], found["expected_J"][1:]
    predicted = np.arange(len(cosine))[:, None] == expected

    def closer(mean):
        values = mean["cosine"]
        other = np.where(predicted[..., None], np.nan, values)
        return np.nanmean(np.where(predicted[..., None], values, np.nan), (0, 1)) - np.nanmean(other, (0, 1))

    yield Claim(
        "decoder_inverts_encoder", "inverse", "Each decoder layer undoes the encoder layer that mirrors it.",
        "cosine with the predicted encoder state minus that with the other states, beyond the decoder's first state",
        closer, {"cosine": cosine}, 0.1, below=False, form="+.2f",
        note="The decoder's first state is left out: it is computed from the encoder's last.",
    )  # fmt: skip


def _of_completion(study):
    depth = study.parts.get("depth")
    if depth is not None:
        seen = "encoder_removed_IxB" in depth
        path = depth["encoder_removed_IxB" if seen else "decoder_removed_JxB"]
        yield Claim(
            "layers_denoise", "denoising", "Layers denoise: tokens of removed patches approach the true ones.",
            f"change of their squared distance along the {'encoder' if seen else 'decoder'}",
            lambda mean: _relative(mean["path"][-1], mean["path"][0]), {"path": path}, -0.1,
        )  # fmt: skip
    passes = study.parts.get("iterative")
    if passes is not None:
        held = passes["certain"]
        yield Claim(
            "several_passes_help", "iterative", "Completion in several small steps beats one pass.",
            "change of the squared error of removed patches, three passes against one",
            lambda mean: _relative(mean["several"], mean["one"]),
            {"several": held["iterative_error_B"], "one": held["one_pass_error_B"]}, -0.01,
        )  # fmt: skip
