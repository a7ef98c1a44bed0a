"""One table for each data set and one figure of several runs: what each costs and what it is worth; mean and spread.

Runs that differ in their seed alone are one row. Parameters and arithmetic (training, one image, multiply-adds counted
twice) follow from the network; loss, images a second, probe, kNN and reconstruction are read from the workdirs. What a
run does not have is shown as missing, and unfinished runs are listed, not averaged. Results that were measured on
different examples are refused: `data` in the result files says on which. Ratios are to the row that is named as the
baseline, or, where a part of the names is named (`vit` of `photographs+vit` and `digits+vit`), to that one of them that
has the same data.
"""

import os

import numpy as np
from etils import epath

from crate_jax.config import flatten, model_overrides
from crate_jax.config_schema import LEAVES
from crate_jax.data.pipeline import num_train_examples
from crate_jax.errors import UserError, nearest, warn_once
from crate_jax.evaluation.results import read_result
from crate_jax.figure_files import save_figure
from crate_jax.models.registry import create_model, num_parameters
from crate_jax.storage import exists, folder_at, write_file
from crate_jax.sweeps.alike import differences, way_of, way_of_loss
from crate_jax.sweeps.comparison_figure import draw
from crate_jax.sweeps.comparison_tables import numbers_as_csv, tables
from crate_jax.sweeps.run import POINT
from crate_jax.training.arithmetic import config_flops
from crate_jax.training.checkpoint import Checkpoints
from crate_jax.training.metrics_file import read_metrics
from crate_jax.training.run_folder import RunFolder, read_config
from crate_jax.training.schedule import total_steps

LAST_LINES = 5  # of the log, over which the loss is averaged

# leaves in which the runs of one row agree: all that change a result, but the seed
TOLD_APART = [n for n, leaf in LEAVES.items() if n != "seed" and (not leaf.resume or n == "data.validation_split")]
RESULTS = {  # quantity: (file, key)
    "probe": ("probe.json", "accuracy"),
    "untrained": ("probe.json", "untrained_accuracy"),
    "knn": ("knn.json", "accuracy"),
    "few_labels": ("few_labels.json", "pretrained"),
    "held_out_loss": ("reconstruction.json", "masked_mse"),
    "masked_psnr": ("reconstruction.json", "masked_psnr"),
    "masked_ssim": ("reconstruction.json", "masked_ssim"),
    "psnr": ("reconstruction.json", "psnr"),
    "ssim": ("reconstruction.json", "ssim"),
}


def find_runs(names):
    """Workdirs and what to call them: a sweep's workdir stands for its points.

    Returns:
        ([(label, path, last step)] of what is finished, [sentence] about what is not).

    Raises:
        UserError: neither a run nor a sweep, or nothing that is finished.
    """
    found, unfinished = [], []
    for name in names:
        folder = folder_at(name, "RUN")
        if points := _points(folder):
            for point in points:
                if point["status"] in ("done", "running", "lost", "stopped") and _config_there(folder / point["name"]):
                    found.append((point["name"], folder / point["name"]))
                else:
                    unfinished.append(f"{point['name']}: {point['status']}")
        elif _config_there(folder):
            found.append((folder.name, folder))
        else:
            raise UserError(f"{name} is neither a run (no config.json) nor a sweep (no sweep.json).")
    whole = []
    for label, path in {os.path.realpath(path): (label, path) for label, path in found}.values():  # each run once
        step, total = last_step(path), _planned_steps(label, read_config(path))
        if not step or (total and step < total):
            unfinished.append(f"{label}: step {step} of {total or 'unknown'}")
        else:
            whole.append((label, path, step))
    if not whole:
        raise UserError(f"{', '.join(map(str, names))}: no run is finished ({'; '.join(unfinished)}).")
    return whole, unfinished


def _planned_steps(label, config):
    """Of a whole run; None, with a warning, where they are counted in epochs of a data set that is not here."""
    try:
        return total_steps(config, 0 if config.total_steps else num_train_examples(config))
    except UserError:
        warn_once(f"{label}: whether its {config.total_epochs} epochs are over is not known without its data set.")
        return None


def _points(folder):
    """How the points of a sweep stand, by their own folders where a scheduler ran each; [] for no sweep."""
    if exists(folder / "sweep.json", folder):
        return _listed(folder / "sweep.json")
    points = {}
    for path in folder.glob(f"*/{POINT}"):
        listed = {point["name"]: point for point in _listed(path)}
        points = listed | points | {path.parent.name: listed.get(path.parent.name)}
    return [point for point in points.values() if point]


def _listed(path):
    """The points that a sweep's file names."""
    points = (read_result(path) or {}).get("points")
    whole = isinstance(points, list) and all(
        isinstance(one, dict) and {"name", "status"} <= one.keys() for one in points
    )
    if not whole:
        raise UserError(f"{path} is damaged; run the sweep's own command again, which writes it again.")
    return points


def _config_there(path):
    return RunFolder(path).config.exists()


def last_step(path):
    """The last step of a run, by its log or its checkpoints; 0 where there are none."""
    folder = RunFolder(path)
    logged = (line["step"] for line in read_metrics(folder.metrics))
    return max((*logged, *Checkpoints(folder.checkpoints).steps()), default=0)


def measure(path, step):
    """(config, {quantity: number}, {quantity: what it is of}, claims of analysis.json, {file: how it was measured}).

    Of a run that ended at `step`; see `_in_words` and `alike`.
    """
    config = read_config(path)
    model = create_model(config.model.name, **model_overrides(config))
    numbers = {"parameters": num_parameters(model), "gflops": config_flops(config, model) / 1e9, "steps": step}
    lines = [line for line in read_metrics(RunFolder(path).metrics) if "loss" in line]
    if lines:
        numbers["loss"] = float(np.mean([line["loss"] for line in lines[-LAST_LINES:]]))
        numbers["images_per_second"] = float(np.median([line["images_per_second"] for line in lines]))
    measured_on, ways = {}, {"training loss": way_of_loss(config)} if lines else {}
    files = dict.fromkeys(file for file, _ in RESULTS.values())
    results = {file: _result(_measured(path, file, config.data.name), step) for file in files}
    for quantity, (file, key) in RESULTS.items():
        found = results[file]
        if found.get(key) is not None:
            ways[file] = way_of(file, found)
            numbers[quantity] = float(found[key])
            data = found.get("data") if isinstance(found.get("data"), dict) else {}
            of = tuple(data.get(part) for part in ("name", "split", "fingerprint"))
            measured_on[quantity] = (*of, found.get("labels_per_class"))
    return config, numbers, measured_on, _result(path / "analysis.json", step).get("claims"), ways


def _measured(path, file, name):
    """A result file; where a run was measured on another part or folder of its data set alone, the one of that."""
    elsewhere = [] if exists(path / file, path) else list(path.glob(f"{file.removesuffix('.json')}-{name}-*.json"))
    return elsewhere[0] if len(elsewhere) == 1 else path / file


def _result(path, step):
    """What a result file holds; nothing, with a warning, where it is of an earlier step of a run that went on."""
    found = read_result(path) or {}
    of = found["source"].get("step") if isinstance(found.get("source"), dict) else None
    if of in (None, step):
        return found
    warn_once(f"{path} is of step {of}, and the run ended at step {step}: it is left out; measure again.")
    return {}


def make_rows(runs):
    """Rows of the table: runs that differ in their seed alone together.

    Args:
        runs: from `find_runs`.

    Returns:
        A list of {"name", "seeds", "data", quantity: list of numbers, "by_seed": {seed: {quantity: number}}, "claims":
        list of each analysed run's, "ways": (label, how its numbers were measured) of each}; in the order of the runs.

    Raises:
        UserError: results of runs on one data set that were measured on different examples.
    """
    rows, seen = {}, {}
    for label, path, step in runs:
        config, numbers, measured_on, claims, ways = measure(path, step)
        for quantity, data in measured_on.items():
            first, known = seen.setdefault((config.data.name, quantity), (label, data))
            if known != data:
                raise UserError(
                    f"{RESULTS[quantity][0]} of {label} is of {_in_words(data)}, that of {first} of "
                    f"{_in_words(known)}; measure both alike."
                )
        flat = flatten(config)
        same = tuple((name, repr(flat[name])) for name in TOLD_APART)
        twice = sum(config.seed in row["seeds"] for key, row in rows.items() if key[0] == same)
        row = rows.setdefault(
            (same, twice),
            {"labels": [], "seeds": [], "data": config.data.name, "by_seed": {}, "claims": [], "ways": []},
        )
        row["labels"].append(label)
        row["seeds"].append(config.seed)
        row["by_seed"][config.seed] = numbers
        row["claims"] += [claims] if claims else []
        row["ways"].append((label, ways))
        for quantity, value in numbers.items():
            row.setdefault(quantity, []).append(value)
    return [{"name": _without_seed(row.pop("labels")), **row} for row in rows.values()]


def _in_words(data):
    name, split, fingerprint, labels = data
    few = f", {labels} labels per class" if labels else ""
    return f"{name}, {split} ({fingerprint}){few}" if name else "unknown data (written by an earlier version)"


def not_alike(rows):
    """Sentences on what runs on one data set did not measure alike."""
    said = []
    for data in dict.fromkeys(row["data"] for row in rows):
        ways = [one for row in rows if row["data"] == data for one in row["ways"]]
        for file in dict.fromkeys(file for _, of_run in ways for file in of_run):
            found = differences([(label, of_run[file]) for label, of_run in ways if file in of_run])
            said += [f"{data}, {file}: {'; '.join(found)}"] if found else []
    return said


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


def compare(names, out, baseline=None):
    """Writes `comparison.md`, `comparison.csv` and `comparison.png`.

    Args:
        names: workdirs of runs or sweeps.
        out: a folder.
        baseline: name, or part of it, of the row that ratios are to; None: the first.

    Returns:
        The tables as Markdown; below them what was not measured alike, and what is unfinished.

    Raises:
        UserError: see `find_runs`, `make_rows` and `find_baselines`.
    """
    runs, unfinished = find_runs(names)
    rows = make_rows(runs)
    base = find_baselines(rows, baseline)
    text = tables(rows, base, baseline)
    if unlike := not_alike(rows):
        text += "\nNot measured alike, so these numbers do not compare:\n\n" + "".join(f"- {one}\n" for one in unlike)
    if unfinished:
        text += "\nUnfinished, and not in the table:\n\n" + "".join(f"- {line}\n" for line in unfinished)
    folder = epath.Path(out)
    write_file(folder / "comparison.md", text)
    write_file(folder / "comparison.csv", numbers_as_csv(rows, base))
    save_figure(draw(rows), folder / "comparison.png")
    return text
