"""Whether what a comparison puts into one column was measured alike: by the same neighbours, masks, units, settings."""

from crate_jax.config import flatten, shown

# of a result file, what another measurement of the same parameters and examples would have otherwise
_SAID = {
    "probe.json": ("train_examples",),
    "knn.json": ("k", "temperature", "approximate", "train_examples"),
    "few_labels.json": ("draws", "head_only"),
    "reconstruction.json": ("mask_kind", "mask_ratio", "norm_pix_loss"),
}
_LOSS = ("norm_pix_loss", "model.mask_ratio", "masking.kind", "masking.ratio", "objective.rate_weight")


def way_of_loss(config):
    """How the training loss is measured: a dictionary from a setting to its value."""
    flat = flatten(config)
    return {name: flat[name] for name in _LOSS}


def way_of(file, found):
    """How a result was measured.

    Args:
        file: its name.
        found: what it holds.

    Returns:
        A dictionary from what may differ to its value; what an earlier version did not write is not in it.
    """
    way = {name: found[name] for name in _SAID[file] if name in found}
    given = {"probe.json": found.get("chosen") is False, "knn.json": found.get("features_from") == "given"}
    if file in given:
        way["features"] = found.get("features") if given[file] else "chosen"
    data, source = (found[key] if isinstance(found.get(key), dict) else {} for key in ("data", "source"))
    if "examples" in data:
        way["examples"] = data["examples"]
    return way | {f"--config.{name}": value for name, value in (source.get("settings") or {}).items()}


def differences(ways):
    """What runs of one data set do not have in common.

    Args:
        ways: pairs (label of the run, dictionary as of `way_of`).

    Returns:
        A clause such as "k: 20 (a), 5 (b, c)" for each; a setting that only some runs were measured with counts, and
        anything else that some do not say does not.
    """
    clauses = []
    for name in dict.fromkeys(name for _, way in ways for name in way):
        labels = {}
        for label, way in ways:
            if name in way or name.startswith("--config."):
                labels.setdefault(shown(way[name]) if name in way else "as trained", []).append(label)
        if len(labels) > 1:
            parts = (f"{value} ({', '.join(_few(runs))})" for value, runs in labels.items())
            clauses.append(f"{name}: {', '.join(parts)}")
    return clauses


def _few(labels, most=3):
    return labels if len(labels) <= most else [*labels[: most - 1], f"{len(labels) - most + 1} more"]
