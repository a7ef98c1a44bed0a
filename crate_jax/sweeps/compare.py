"""One table and one figure of several runs: what each costs and what it is worth; mean and spread over seeds.

Runs that differ in their seed alone are one row. Parameters and arithmetic (training, one image, multiply-adds counted
twice) follow from the network; loss, images a second, probe, kNN and reconstruction are read from the workdirs, and
what a run does not have is left empty. Ratios are to the row that is named as the baseline, or, where a part of the
names is named (`vit` of `photographs+vit` and `digits+vit`), to that one of them that has the same data.
"""

import csv
import io
import json

import numpy as np
from etils import epath

from crate_jax.config import flatten, model_overrides
from crate_jax.config_schema import LEAVES
from crate_jax.errors import UserError, nearest
from crate_jax.evaluation.figures import plain_names
from crate_jax.models.flops import flops_per_image
from crate_jax.models.registry import create_model, num_parameters
from crate_jax.training.metrics_file import read_metrics
from crate_jax.training.run_folder import RunFolder, read_config

LAST_LINES = 5  # of the log, over which the loss is averaged

QUANTITIES = {  # name: (heading, format, scale)
    "parameters": ("parameters, M", "{:.3f}", 1e-6),
    "gflops": ("GFLOP an image", "{:.3f}", 1.0),
    "images_per_second": ("images/s", "{:.0f}", 1.0),
    "loss": ("loss", "{:.4f}", 1.0),
    "probe": ("probe, %", "{:.1f}", 100.0),
    "untrained": ("untrained, %", "{:.1f}", 100.0),
    "knn": ("kNN, %", "{:.1f}", 100.0),
    "few_labels": ("few labels, %", "{:.1f}", 100.0),
    "psnr": ("PSNR, dB", "{:.2f}", 1.0),
    "ssim": ("SSIM", "{:.3f}", 1.0),
}
# leaves in which the runs of one row agree: all that change a result, but the seed
TOLD_APART = [n for n, leaf in LEAVES.items() if n != "seed" and (not leaf.resume or n == "data.validation_split")]
RESULTS = {  # quantity: (file, key)
    "probe": ("probe.json", "accuracy"),
    "untrained": ("probe.json", "untrained_accuracy"),
    "knn": ("knn.json", "accuracy"),
    "few_labels": ("few_labels.json", "pretrained"),
    "psnr": ("reconstruction.json", "psnr"),
    "ssim": ("reconstruction.json", "ssim"),
}


def find_runs(names):
    """Workdirs and what to call them: a sweep's workdir stands for its points.

    Returns:
        [(label, path)].

    Raises:
        UserError: neither a run nor a sweep, or a sweep without a finished point.
    """
    found = []
    for name in names:
        folder = epath.Path(name)
        if (folder / "sweep.json").exists():
            points = json.loads((folder / "sweep.json").read_text())["points"]
            done = [
                (point["name"], folder / point["name"])
                for point in points
                if (folder / point["name"] / "config.json").exists()
            ]
            if not done:
                raise UserError(f"{name}: no point of this sweep has been run yet.")
            found += done
        elif RunFolder(name).config.exists():
            found.append((folder.name, folder))
        else:
            raise UserError(f"{name} is neither a run (no config.json) nor a sweep (no sweep.json).")
    return found


def measure(path):
    """(config, {quantity: number}) of a run."""
    config = read_config(path)
    model = create_model(config.model.name, **model_overrides(config))
    numbers = {"parameters": num_parameters(model), "gflops": flops_per_image(model) / 1e9}
    folder = RunFolder(path)
    lines = [line for line in read_metrics(folder.metrics) if "loss" in line] if folder.metrics.exists() else []
    if lines:
        numbers["loss"] = float(np.mean([line["loss"] for line in lines[-LAST_LINES:]]))
        numbers["images_per_second"] = float(np.median([line["images_per_second"] for line in lines]))
    for quantity, (file, key) in RESULTS.items():
        if (path / file).exists():
            value = json.loads((path / file).read_text()).get(key)
            if value is not None:
                numbers[quantity] = float(value)
    return config, numbers


def make_rows(runs):
    """Rows of the table: runs that differ in their seed alone together.

    Args:
        runs: from `find_runs`.

    Returns:
        A list of {"name", "seeds", "data", quantity: list of numbers}; in the order of the runs.
    """
    rows = {}
    for label, path in runs:
        config, numbers = measure(path)
        flat = flatten(config)
        same = tuple((name, repr(flat[name])) for name in TOLD_APART)
        row = rows.setdefault(same, {"labels": [], "seeds": [], "data": config.data.name})
        row["labels"].append(label)
        row["seeds"].append(config.seed)
        for quantity, value in numbers.items():
            row.setdefault(quantity, []).append(value)
    made = []
    for row in rows.values():
        labels = row.pop("labels")
        made.append({"name": _without_seed(labels), **row})
    return made


def _without_seed(labels):
    """What labels that differ in their seed have in common: `lambda=0.5` of `lambda=0.5+seed=0`, ..."""
    if len(labels) == 1:
        return labels[0]
    parts = [part for part in labels[0].split("+") if not part.startswith("seed=")]
    if len(parts) < len(labels[0].split("+")):
        return "+".join(parts) or "all seeds"
    return labels[0].rstrip("0123456789").rstrip("_-") or labels[0]


def find_baselines(rows, name):
    """What each row's ratios are to.

    Args:
        rows: from `make_rows`.
        name: of a row, or a part of names (between +); None is the first row.

    Returns:
        A list of rows, one for each row.

    Raises:
        UserError: no row has this name, or part of it.
    """
    names = [row["name"] for row in rows]
    if name is None or name in names:
        return [rows[names.index(name) if name else 0]] * len(rows)
    partly = [row for row in rows if name in row["name"].split("+")]
    if not partly:
        parts = {part for one in names for part in one.split("+")}
        raise UserError(f"--baseline={name}: there is no such row{nearest(name, [*names, *parts])}")
    return [next((one for one in partly if one["data"] == row["data"]), partly[0]) for row in rows]


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


def _cell(values, pattern, scale):
    if not values:
        return ""
    text = pattern.format(scale * np.mean(values))
    return f"{text} ± {pattern.format(scale * np.std(values, ddof=1))}" if len(values) > 1 and np.ptp(values) else text


def markdown(headings, lines):
    """A Markdown table."""
    rule = ["---"] * 2 + ["---:"] * (len(headings) - 2)
    escaped = [[cell.replace("|", "\\|") for cell in cells] for cells in (headings, rule, *lines)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in escaped)


def numbers_as_csv(rows, baselines):
    """Means and spreads as CSV, in plain units (fractions of one, parameters, GFLOP)."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = [f"{quantity}{part}" for quantity in QUANTITIES for part in ("", "_spread")]
    writer.writerow(["run", "seeds", *columns, "baseline", "parameters_of_baseline", "gflops_of_baseline"])
    for row, baseline in zip(rows, baselines, strict=True):
        cells = []
        for quantity in QUANTITIES:
            values = row.get(quantity, [])
            cells += [np.mean(values) if values else "", np.std(values, ddof=1) if len(values) > 1 else ""]
        ratios = [row[key][0] / baseline[key][0] for key in ("parameters", "gflops")]
        writer.writerow([row["name"], len(row["seeds"]), *cells, baseline["name"], *ratios])
    return stream.getvalue()


def draw(rows):
    """A figure: a panel a quantity, a bar a run, the spread over seeds as a line."""
    from matplotlib.figure import Figure

    shown = [quantity for quantity in QUANTITIES if any(quantity in row for row in rows)]
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(2.6 * columns + 2, (0.32 * len(rows) + 0.9) * lines + 0.3), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    places = np.arange(len(rows))[::-1]
    for axis, quantity in zip(axes.flat, shown, strict=False):
        heading, _, scale = QUANTITIES[quantity]
        means = [scale * np.mean(row[quantity]) if row.get(quantity) else 0 for row in rows]
        spread = [scale * np.std(row[quantity], ddof=1) if len(row.get(quantity, [])) > 1 else 0 for row in rows]
        axis.barh(places, means, xerr=spread, color="#56b4e9", ecolor="#333333", height=0.7)
        axis.set_title(heading, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(axis="x", alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_yticks(places, [row["name"] for row in rows], fontsize=8)
    for axis in list(axes.flat)[len(shown) :]:
        axis.set_visible(False)
    return figure


def compare(names, out, baseline=None):
    """Writes `comparison.md`, `comparison.csv` and `comparison.png`.

    Args:
        names: workdirs of runs or sweeps.
        out: a folder.
        baseline: name, or part of it, of the row that ratios are to; None: the first.

    Returns:
        The table as Markdown.

    Raises:
        UserError: see `find_runs` and `find_baselines`.
    """
    rows = make_rows(find_runs(names))
    base = find_baselines(rows, baseline)
    text = markdown(*table(rows, base, baseline))
    folder = epath.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.md").write_text(text)
    (folder / "comparison.csv").write_text(numbers_as_csv(rows, base))
    picture = io.BytesIO()
    figure = draw(rows)
    plain_names(figure)
    figure.savefig(picture, format="png", dpi=120)
    (folder / "comparison.png").write_bytes(picture.getvalue())
    return text
