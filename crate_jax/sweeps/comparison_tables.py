"""The tables of a comparison as text: means and spreads, differences paired by seed, the claims of the theory."""

import csv
import io

import numpy as np
from scipy import stats

from crate_jax.evaluation.results import shown_as

QUANTITIES = {  # name: (heading, format, scale)
    "parameters": ("parameters, M", "{:.3f}", 1e-6),
    "gflops": ("GFLOP an image", "{:.3f}", 1.0),
    "images_per_second": ("images/s", "{:.0f}", 1.0),
    "steps": ("steps", "{:.0f}", 1.0),
    "loss": ("training loss", "{:.4f}", 1.0),
    "held_out_loss": ("held-out MSE", "{:.4f}", 1.0),
    "probe": ("probe, %", "{:.1f}", 100.0),
    "untrained": ("untrained, %", "{:.1f}", 100.0),
    "knn": ("kNN, %", "{:.1f}", 100.0),
    "few_labels": ("few labels, %", "{:.1f}", 100.0),
    "masked_psnr": ("PSNR of removed pixels, dB", "{:.2f}", 1.0),
    "masked_ssim": ("SSIM of removed pixels", "{:.3f}", 1.0),
    "psnr": ("PSNR of images, dB", "{:.2f}", 1.0),
    "ssim": ("SSIM of images", "{:.3f}", 1.0),
}
MISSING = "–"
PAIRED = ("loss", "held_out_loss", "probe", "knn", "few_labels", "masked_psnr", "masked_ssim")
IN_PAIRS = "runs paired by seed, mean and 95 % interval over seeds (Student's t)"
OF_CLAIMS = "Claims: mean ± standard deviation over runs (in how many of them the verdict is *supported*)"


def table(rows, baselines, name):
    """The table as text cells: (headings, lines). Spread is the standard deviation over seeds (n - 1)."""
    shown = [quantity for quantity in QUANTITIES if any(quantity in row for row in rows)]
    of = f"of {name or baselines[0]['name']}"
    headings = ["run", "seeds", *(QUANTITIES[q][0] for q in shown), f"parameters {of}", f"arithmetic {of}"]
    lines = []
    for row, baseline in zip(rows, baselines, strict=True):
        cells = [row["name"], str(len(row["seeds"]))]
        cells += [_cell(row.get(quantity), *QUANTITIES[quantity][1:]) for quantity in shown]
        cells += [f"{row[key][0] / baseline[key][0]:.2f}" for key in ("parameters", "gflops")]
        lines.append(cells)
    return headings, lines


def tables(rows, baselines, name):
    """As Markdown, for each data set: the numbers, differences where there are pairs, claims where there are any."""
    parts, data_sets = [], dict.fromkeys(row["data"] for row in rows)
    for data in data_sets:
        held = [(row, baseline) for row, baseline in zip(rows, baselines, strict=True) if row["data"] == data]
        rows_held, baselines_held = map(list, zip(*held, strict=True))
        if len(data_sets) > 1:
            parts.append(f"{data}\n")
        parts.append(markdown(*table(rows_held, baselines_held, name)))
        headings, lines = differences(rows_held, baselines_held)
        if lines:
            parts += [f"Differences from {name or baselines_held[0]['name']}, {IN_PAIRS}:\n", markdown(headings, lines)]
        headings, lines = claims_table(rows_held)
        if lines:
            parts += [f"{OF_CLAIMS}:\n", markdown(headings, lines, texts=1)]
    return "\n".join(parts)


def _cell(values, pattern, scale):
    if not values:
        return MISSING
    text = pattern.format(scale * np.mean(values))
    return f"{text} ± {pattern.format(scale * np.std(values, ddof=1))}" if len(values) > 1 and np.ptp(values) else text


def markdown(headings, lines, *, texts=2):
    """A Markdown table; all columns but the first `texts` are numbers."""
    rule = ["---"] * texts + ["---:"] * (len(headings) - texts)
    escaped = [[cell.replace("|", "\\|") for cell in cells] for cells in (headings, rule, *lines)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in escaped)


def numbers_as_csv(rows, baselines):
    """Means and spreads as CSV, in plain units (fractions of one, parameters, GFLOP)."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = [f"{quantity}{part}" for quantity in QUANTITIES for part in ("", "_spread")]
    writer.writerow(["run", "data", "seeds", *columns, "baseline", "parameters_of_baseline", "gflops_of_baseline"])
    for row, baseline in zip(rows, baselines, strict=True):
        cells = []
        for quantity in QUANTITIES:
            values = row.get(quantity, [])
            cells += [np.mean(values) if values else "", np.std(values, ddof=1) if len(values) > 1 else ""]
        ratios = [row[key][0] / baseline[key][0] for key in ("parameters", "gflops")]
        writer.writerow([row["name"], row["data"], len(row["seeds"]), *cells, baseline["name"], *ratios])
    return stream.getvalue()


def differences(rows, baselines):
    """What each row has more than its baseline, runs of one seed together: mean and 95 % interval (Student's t).

    Returns:
        (headings, lines); no lines where no row shares two seeds with its baseline.
    """
    kept = [quantity for quantity in PAIRED if any(quantity in row for row in rows)]
    lines = []
    for row, baseline in zip(rows, baselines, strict=True):
        seeds = sorted(set(row["by_seed"]) & set(baseline["by_seed"]))
        if row is baseline or len(seeds) < 2:
            continue
        pairs = [(row["by_seed"][seed], baseline["by_seed"][seed]) for seed in seeds]
        lines.append([row["name"], str(len(seeds)), *(_difference(pairs, quantity) for quantity in kept)])
    return ["run", "pairs", *(QUANTITIES[quantity][0] for quantity in kept)], lines


def _difference(pairs, quantity):
    _, pattern, scale = QUANTITIES[quantity]
    found = [scale * (one[quantity] - other[quantity]) for one, other in pairs if quantity in one and quantity in other]
    if len(found) < 2:
        return MISSING
    half = stats.t.ppf(0.975, len(found) - 1) * np.std(found, ddof=1) / len(found) ** 0.5
    signed = pattern.replace("{:", "{:+")
    low, high = (signed.format(np.mean(found) + side * half) for side in (-1, 1))
    return f"{signed.format(np.mean(found))} [{low}, {high}]"


def claims_table(rows):
    """The claims of `analysis.json` as rows, the runs as columns; headings and lines, none if nothing was analysed."""
    analysed = [row for row in rows if row["claims"]]
    told = {one["name"]: one for row in analysed for run in row["claims"] for one in run if "form" in one}
    lines = []
    for name, claim in told.items():
        cells = [f"{claim['metric']} ({claim['threshold']})"]
        for row in analysed:
            found = [one for run in row["claims"] for one in run if one["name"] == name]
            cells.append(_claim_cell(found, claim["form"]))
        lines.append(cells)
    return ["metric (threshold)", *(row["name"] for row in analysed)], lines


def _claim_cell(found, form):
    if not found:
        return MISSING
    values = [one["value"] for one in found]
    spread = f" ± {shown_as(np.std(values, ddof=1), form).lstrip('+')}" if len(values) > 1 else ""
    supported = sum(one["verdict"] == "supported" for one in found)
    return f"{shown_as(np.mean(values), form)}{spread} ({supported} of {len(found)})"
