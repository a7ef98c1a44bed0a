"""The report: one self-contained page from a `Study`; its figures as PNG, its numbers as JSON."""

import base64
import functools
import importlib.resources
import re
import tomllib

import numpy as np

from crate_jax.analysis import curve_figures as curves
from crate_jax.analysis import findings
from crate_jax.analysis import picture_figures as pictures
from crate_jax.analysis.alarms import alarms
from crate_jax.analysis.claims import DRAWS, FEWEST
from crate_jax.figure_files import png_of

DPI = 130
VERDICTS = ("supported", "not supported", "inconclusive")


def _sections(study, statistics):
    """(name, sentences, figures by file name): what there is to show of this network, in the order of the page."""
    parts = study.parts

    def drawn(draw, *arguments):
        return functools.partial(draw, study, *arguments)

    yield "layers", findings.on_layers, {"layers": drawn(curves.layer_curves)}
    if "similarity" in parts:
        yield "similarity", findings.on_similarity, {"similarity": drawn(curves.similarity_map)}
    if "half_layers_encoder" in parts:
        yield "objective", findings.on_objective, {"objective": drawn(curves.objective_curves)}
    if "steps" in parts:
        yield "steps", findings.on_steps, {"steps": drawn(curves.step_curves)}
    if "subspaces" in parts:
        yield "subspaces", findings.on_subspaces, {"subspaces": drawn(curves.subspace_figures)}
    if "usage" in parts:
        yield "usage", findings.on_usage, {"dictionary_usage": drawn(curves.usage_curves)}
    if parts.get("patches_of_atoms"):
        yield "atoms", findings.on_atoms, {
            f"atoms_{layer:02d}": drawn(pictures.patches_of_atoms, statistics, layer)
            for layer in parts["patches_of_atoms"]
        }  # fmt: skip
    yield "spectra", findings.on_spectra, {"spectra": drawn(curves.spectrum_curves)}
    if "attention" in parts:
        yield "attention", findings.on_attention, {
            "attention_heads": drawn(pictures.attention_by_head, statistics),
            "attention_layers": drawn(pictures.attention_by_layer, statistics),
        }  # fmt: skip
    yield "colours", findings.on_colours, {
        "principal_components": drawn(pictures.principal_component_pictures, statistics)
    }  # fmt: skip
    if "inverse" in parts:
        yield "inverse", findings.on_inverse, {"inverse": drawn(curves.inverse_maps)}
    if "depth" in parts:
        yield "denoising", findings.on_denoising, {"denoising": drawn(curves.denoising_curves)}
        yield "pictures", findings.on_pictures, {"along_the_network": drawn(pictures.along_the_network, statistics)}
    if "iterative" in parts:
        yield "iterative", findings.on_iterative, {
            "iterative": drawn(curves.iterative_curves),
            "iterative_pictures": drawn(pictures.completion_in_passes, statistics),
        }  # fmt: skip


def sections(study, statistics):
    """Everything on the page below the table of claims.

    Args:
        study: a `Study`.
        statistics: (mean, std) that images were normalised with, a number per channel.

    Returns:
        A list of dictionaries: `name`, `title`, `shows`, `read`, `predicts` (empty for a network with no subspaces),
        `found` (sentences), `figures` (file name without ending, to PNG bytes).
    """
    words = tomllib.loads(_template("words.toml"))
    made = []
    for name, says, figures in _sections(study, statistics):
        held = {file: png_of(draw(), DPI) for file, draw in figures.items()}
        said = words[name]
        if not study.has_subspaces:
            said |= {key.removesuffix("_plain"): text for key, text in said.items() if key.endswith("_plain")}
        made.append({"name": name, **said, "found": says(study), "figures": held})
        if not study.has_subspaces:
            made[-1]["predicts"] = ""
    return made


def figures_of(study, statistics):
    """Those of the page, by file name without ending: functions that draw them. The arguments are as of `sections`."""
    return {file: draw for *_, figures in _sections(study, statistics) for file, draw in figures.items()}


def _template(name):
    return importlib.resources.files("crate_jax.analysis").joinpath("templates", name).read_text(encoding="utf-8")


def page(study, made, claimed, facts):
    """report.html: no script, no network; phones, light and dark.

    Args:
        study: a `Study`.
        made: from `sections`.
        claimed: from `claims.judge`.
        facts: (name, text) pairs for the head of the page.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["inline"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    environment.filters["png_size"] = lambda png: [int.from_bytes(png[at : at + 4], "big") for at in (16, 20)]
    environment.filters["maths"] = _maths
    verdicts = [row["verdict"] for row in claimed]
    return environment.from_string(_template("report.html")).render(
        sections=made, claims=claimed, others=list(study.others), facts=facts, alarms=alarms(encoder_rows(study)),
        has_subspaces=study.has_subspaces, dpi=DPI, draws=DRAWS, fewest=FEWEST,
        counts={one: verdicts.count(one) for one in VERDICTS},
    )  # fmt: skip


def _maths(text):
    """R^c and U_k as HTML."""
    import markupsafe

    text = re.sub(r"\b([A-Z])_([a-z])(?![a-z])", r"\1<sub>\2</sub>", str(markupsafe.escape(text)))
    return markupsafe.Markup(re.sub(r"\^([A-Za-z0-9])(?![a-z0-9])", r"<sup>\1</sup>", text))


def encoder_rows(study):
    """The encoder's measurements as `alarms` takes them."""
    return {key: value[: study.model.depth] for key, value in study.layers["network"].items()}


def numbers(study, made, claimed):
    """What `analysis.json` holds: `layers`, first encoder layer to last decoder layer, `claims`, and the sentences.

    A layer's numbers are means over the images, with `_std` their deviation (n - 1); None where a layer has none.
    """
    layers = []
    for row, name in enumerate(study.names):
        layer = {"name": name}
        for kind, measured in study.layers.items():
            held = {key: _mean(values[row]) for key, values in measured.items()}
            if kind == "network":
                layer |= held
                layer |= {f"{key}_std": _deviation(values[row]) for key, values in measured.items()}
            else:
                layer[kind.replace(" ", "_")] = held
        for key in ("coding_rate", "coding_rate_official", "nonzero"):
            layer.setdefault(key, None)
        layers.append(layer | _further(study, name))
    return {
        "layers": layers,
        "images": len(study.images),
        "epsilon": 0.5,
        "claims": claimed,
        "findings": {one["name"]: one["found"] for one in made},
        "alarms": alarms(encoder_rows(study)),
    } | _whole_network(study)


def _further(study, name):
    """Numbers of one layer from the other parts of the study."""
    parts, row = study.parts, study.names.index(name)
    more = {}
    part = "encoder" if name.startswith("encoder") else "decoder"
    terms = parts.get(f"half_layers_{part}")
    if terms is not None:
        at = row if part == "encoder" else row - study.model.depth
        more["half_layers"] = {key: value[at].mean(-1).tolist() for key, value in terms.items()}
    if name in parts.get("dictionaries", {}):
        more["ista_step"] = parts["dictionaries"][name]["step"]
        more["dead_atoms"] = float((parts["usage"][row].max(-1) <= 0).mean())
    if part == "encoder":
        more |= {key: _mean(value[row]) for key, value in parts.get("steps", {}).items()}
    return more


def _whole_network(study):
    parts, more = study.parts, {}
    if "inverse" in parts:
        held = {key.removesuffix("xB"): value for key, value in parts["inverse"].items()}
        more["inverse"] = {key: (value.mean(-1) if value.ndim == 3 else value).tolist() for key, value in held.items()}
    if "similarity" in parts:
        more["similarity"] = parts["similarity"] | {"cka_IxJ": parts["similarity"]["cka_IxJ"].tolist()}
    if "depth" in parts:
        more["denoising"] = {
            key[:-4]: value.mean(1).tolist() for key, value in parts["depth"].items() if "pixels" not in key
        }
    if "iterative" in parts:
        held = parts["iterative"]
        more["iterative"] = {
            "one_pass": _mean(held["certain"]["one_pass_error_B"]),
            **{order: _mean(one["iterative_error_B"]) for order, one in held.items()},
        }
    return more


def _mean(values):
    values = np.asarray(values, np.float64)
    return float(values.mean()) if np.all(np.isfinite(values)) else None


def _deviation(values):
    values = np.asarray(values, np.float64)
    return float(values.std(ddof=1)) if len(values) > 1 and np.all(np.isfinite(values)) else None
