"""The table from workdirs that are written by hand."""

import csv
import json

import pytest

from crate_jax.config import load_config, to_json
from crate_jax.errors import UserError
from crate_jax.sweeps.compare import compare, draw, find_runs, make_rows


def written(folder, seed, probe, data=None, **overrides):
    folder.mkdir(parents=True)
    leaves = {"seed": seed, "total_steps": 100, **{name.replace("__", "."): value for name, value in overrides.items()}}
    (folder / "config.json").write_text(to_json(load_config("quickstart", leaves.items())))
    lines = [{"step": step, "loss": 1 / step, "images_per_second": 100.0 + step} for step in (1, 50, 100)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"name": "embedded_photographs", "split": "test", "fingerprint": "0", "examples": 9} | (data or {})
    result = {"accuracy": probe, "untrained_accuracy": 0.5, "data": data}
    if probe is not None:
        (folder / "probe.json").write_text(json.dumps(result))
    return str(folder)


def test_seeds_are_one_row_and_ratios_name_their_baseline(tmp_path):
    runs = [written(tmp_path / f"crate+seed={seed}", seed, 0.6 + 0.01 * seed) for seed in range(3)]
    vit = {"model__name": "vit_mae_small", "model__decoder_width": 128, "model__decoder_num_heads": 4}
    runs.append(written(tmp_path / "vit", 0, 0.7, **vit))
    text = compare(runs, tmp_path / "out", baseline="vit")
    header, _, crate, other = text.splitlines()
    assert "parameters of vit" in header and "arithmetic of vit" in header
    assert crate.startswith("| crate | 3 |") and "61.0 ± 1.0" in crate
    assert other.startswith("| vit | 1 |") and "70.0 |" in other and other.endswith("| 1.00 | 1.00 |")
    with open(tmp_path / "out" / "comparison.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[0]["probe"]) == pytest.approx(0.61) and float(rows[0]["probe_spread"]) == pytest.approx(0.01)
    assert float(rows[0]["loss"]) == pytest.approx((1 + 1 / 50 + 1 / 100) / 3)
    assert float(rows[0]["parameters"]) == 311984 and rows[1]["knn"] == ""
    assert 0.2 < float(rows[0]["parameters_of_baseline"]) < 0.3
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 5000


def test_a_part_of_a_name_is_a_baseline_for_each_data_set(tmp_path):
    vit = {"model__name": "vit_mae_small", "model__decoder_width": 128, "model__decoder_num_heads": 4}
    digits = {"data__name": "embedded_digits", "model__image_size": 28, "model__channels": 1}
    runs = [written(tmp_path / "photographs+crate", 0, 0.6), written(tmp_path / "photographs+vit", 0, 0.6, **vit)]
    runs += [written(tmp_path / "digits+crate", 0, 0.6, **digits)]
    runs += [written(tmp_path / "digits+vit+seed=0", 0, 0.6, **digits, **vit)]
    compare(runs, tmp_path / "out", baseline="vit")
    with open(tmp_path / "out" / "comparison.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["baseline"] for row in rows] == ["photographs+vit"] * 2 + ["digits+vit+seed=0"] * 2
    for row, of in zip(rows, (rows[1], rows[1], rows[3], rows[3]), strict=True):
        assert float(row["gflops_of_baseline"]) == pytest.approx(float(row["gflops"]) / float(of["gflops"]))


def test_a_sweeps_workdir_stands_for_its_points(tmp_path):
    written(tmp_path / "a", 0, 0.6)
    points = [{"name": "a", "overrides": {}, "status": "done"}, {"name": "b", "overrides": {}, "status": "pending"}]
    (tmp_path / "sweep.json").write_text(json.dumps({"points": points}))
    text = compare([str(tmp_path)], tmp_path / "out")
    assert "| a | 1 |" in text and "- b: pending" in text


def test_points_that_a_scheduler_ran_on_their_own(tmp_path):
    """Each knows of itself alone; the order is the sweep file's."""
    for name in ("b", "a"):
        written(tmp_path / name, 0, 0.6, model__depth=2 if name == "a" else 3)
        points = [
            {"name": one, "overrides": {}, "status": "done" if one == name else "pending"} for one in ("b", "c", "a")
        ]
        (tmp_path / name / "sweep_point.json").write_text(json.dumps({"points": points}))
    text = compare([str(tmp_path)], tmp_path / "out")
    assert text.index("| b | 1 |") < text.index("| a | 1 |") and "- c: pending" in text


def test_a_run_that_is_not_finished_is_listed_and_not_averaged(tmp_path):
    runs = [written(tmp_path / f"crate+seed={seed}", seed, 0.6) for seed in range(2)]
    runs.append(written(tmp_path / "crate+seed=2", 2, 0.9, total_steps=200))
    text = compare(runs, tmp_path / "out")
    assert "| crate | 2 |" in text and "60.0 |" in text and "- crate+seed=2: step 100 of 200" in text
    with pytest.raises(UserError, match="no run is finished"):
        compare(runs[2:], tmp_path / "out")


def test_epochs_are_counted_in_steps(tmp_path):
    epochs = {"total_steps": None, "data__name": "embedded_digits", "batch_size": 100}  # of 4,000 examples
    whole = written(tmp_path / "whole", 0, 0.6, total_epochs=2.5, **epochs)
    half = written(tmp_path / "half", 0, 0.9, total_epochs=5.0, **epochs)
    text = compare([whole, half], tmp_path / "out")
    assert "| whole | 1 |" in text and "- half: step 100 of 200" in text


def test_a_run_counts_once_and_two_of_a_seed_are_two_rows(tmp_path):
    first, second = (written(tmp_path / name, 0, share) for name, share in (("a", 0.6), ("b", 0.8)))
    text = compare([first, f"{first}/", second], tmp_path / "out")
    assert "| a | 1 |" in text and "| b | 1 |" in text


@pytest.mark.parametrize("text", ["", "[]", '{"points": 3}', '{"points": [{}]}'])
def test_a_damaged_list_of_points_is_one_sentence(text, tmp_path):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(UserError, match=r"sweep.json is damaged; run the sweep"):
        compare([tmp_path], tmp_path / "out")


def test_a_finished_run_without_its_log_is_finished(tmp_path):
    run = written(tmp_path / "run", 0, 0.6)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "checkpoints" / "100").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "100" / "_CHECKPOINT_METADATA").write_text("{}")
    text = compare([run], tmp_path / "out")
    assert "| run | 1 |" in text and "60.0 |" in text and "training loss" not in text


def test_what_is_missing_is_shown_as_missing(tmp_path):
    runs = [written(tmp_path / "a", 0, 0.6), written(tmp_path / "b", 0, None, model__depth=2)]
    compare(runs, tmp_path / "out")
    lines = (tmp_path / "out" / "comparison.md").read_text().splitlines()
    place = lines[0].split(" | ").index("probe, %")
    assert [line.split(" | ")[place] for line in lines[2:]] == ["60.0", "–"]
    rows = make_rows(find_runs(runs)[0])
    figure = draw(rows)
    (axis,) = [axis for axis in figure.axes if axis.get_title() == "probe, %"]
    assert len(axis.patches) == 1 and [text.get_text().strip() for text in axis.texts] == ["60.0", "missing"]


def test_results_on_other_examples_are_refused(tmp_path):
    runs = [written(tmp_path / "a", 0, 0.6), written(tmp_path / "b", 0, 0.7, data={"split": "train"}, model__depth=2)]
    with pytest.raises(UserError, match=r"probe.json of b is of embedded_photographs, train"):
        compare(runs, tmp_path / "out")


def test_runs_measured_elsewhere_alone_are_compared_there(tmp_path):
    """A sweep that probes another folder of its kind; of two such results neither is taken."""
    runs = [written(tmp_path / name, seed, 0.5 + seed / 10) for seed, name in enumerate(("a+seed=0", "a+seed=1"))]
    for folder in (tmp_path / "a+seed=0", tmp_path / "a+seed=1"):
        (folder / "probe.json").rename(folder / "probe-embedded_photographs-labelled.json")
    [row] = make_rows(find_runs(runs)[0])
    assert row["probe"] == [0.5, 0.6]
    (tmp_path / "a+seed=1" / "probe-embedded_photographs-others.json").write_text("{}")
    [row] = make_rows(find_runs(runs)[0])
    assert row["probe"] == [0.5]


def test_few_labels_of_another_number_are_refused(tmp_path):
    runs = [written(tmp_path / name, 0, 0.6, model__depth=depth) for depth, name in enumerate("ab", 2)]
    data = {"name": "embedded_photographs", "split": "test", "fingerprint": "0"}
    for number, run in enumerate(runs, 1):
        few = {"pretrained": 0.1, "labels_per_class": 5 * number, "data": data}
        (tmp_path / run / "few_labels.json").write_text(json.dumps(few))
    with pytest.raises(UserError, match=r"few_labels.json of b is of .* 10 labels per class, that of a .* 5 labels"):
        compare(runs, tmp_path / "out")


def test_results_of_an_earlier_step_are_left_out(tmp_path, caplog):
    """A run with a constant rate was measured, and then made longer."""
    run = written(tmp_path / "a", 0, 0.6)
    for file in ("probe.json", "analysis.json"):
        held = {"accuracy": 0.6, "claims": [{"name": "x"}], "source": {"path": run, "step": 50}}
        (tmp_path / "a" / file).write_text(json.dumps(held))
    text = compare([run], tmp_path / "out")
    assert "probe" not in text and "Claims" not in text and "probe.json is of step 50, and the run ended" in caplog.text


def test_what_was_not_measured_alike_is_said(tmp_path):
    """kNN of other neighbours, errors at another mask ratio or in other units, and evaluations of changed networks."""
    data = {"name": "embedded_photographs", "split": "test", "fingerprint": "0", "examples": 9}
    knn = {"accuracy": 0.5, "k": 20, "temperature": 0.07, "features": "mean@last", "features_from": "probe.json"}
    ratios = {"a": 0.75, "b": 0.75, "c": 0.5}
    runs = [written(tmp_path / name, 0, 0.6, model__depth=depth) for depth, name in enumerate(ratios, 2)]
    for name, ratio in ratios.items():
        found = {"masked_mse": 0.1, "mask_ratio": ratio, "norm_pix_loss": False, "data": data}
        (tmp_path / name / "reconstruction.json").write_text(json.dumps(found))
        (tmp_path / name / "knn.json").write_text(json.dumps(knn | {"data": data}))
    assert "Not measured alike" not in compare(runs[:2], tmp_path / "out")
    other = knn | {"k": 5, "features_from": "given", "data": data}
    other["source"] = {"step": 100, "settings": {"model.image_size": 64}}
    (tmp_path / "b" / "knn.json").write_text(json.dumps(other))
    text = compare(runs, tmp_path / "out").partition("Not measured alike")[2]
    assert "reconstruction.json: mask_ratio: 0.75 (a, b), 0.5 (c)\n" in text
    said = "k: 20 (a, c), 5 (b); features: 'chosen' (a, c), 'mean@last' (b); "
    assert f"knn.json: {said}--config.model.image_size: as trained (a, c), 64 (b)\n" in text
    assert "probe.json" not in text and "training loss" not in text


def test_training_losses_in_other_units_are_said(tmp_path):
    runs = [written(tmp_path / name, 0, None, norm_pix_loss=bool(norm)) for norm, name in enumerate("ab")]
    text = compare(runs, tmp_path / "out")
    assert "training loss: norm_pix_loss: False (a), True (b)" in text


def test_what_is_neither_run_nor_sweep(tmp_path):
    with pytest.raises(UserError, match="neither a run"):
        compare([str(tmp_path)], tmp_path / "out")
    run = written(tmp_path / "a", 0, 0.6)
    with pytest.raises(UserError, match="there is no such row"):
        compare([run], tmp_path / "out", baseline="b")


def test_differences_are_paired_by_seed(tmp_path):
    """Seeds 0 and 1 are common: +4 and +2 points, so 3 with a half-width of 12.706 (t of one degree) x 1."""
    vit = {"model__name": "vit_mae_small", "model__decoder_width": 128, "model__decoder_num_heads": 4}
    runs = [written(tmp_path / f"crate+seed={seed}", seed, value) for seed, value in enumerate((0.5, 0.7))]
    runs += [
        written(tmp_path / f"vit+seed={seed}", seed, value, **vit) for seed, value in ((1, 0.72), (0, 0.54), (5, 0))
    ]
    text = compare(runs, tmp_path / "out", baseline="crate")
    assert "Differences from crate, runs paired by seed" in text
    assert "| vit | 2 | +0.0000 [+0.0000, +0.0000] | +3.0 [-9.7, +15.7] |" in text
    assert "| crate | 2 | " in text and text.count("| crate |") == 1, "no difference from itself"


def test_claims_are_rows_and_runs_columns(tmp_path):
    vit = {"model__name": "vit_mae_small", "model__decoder_width": 128, "model__decoder_num_heads": 4}
    runs = [written(tmp_path / f"crate+seed={seed}", seed, 0.6) for seed in range(2)]
    runs += [written(tmp_path / "vit", 0, 0.6, **vit), written(tmp_path / "unseen", 0, 0.6, model__depth=2)]
    for run, values in zip(runs, ((0.02, 1.5), (0.04, 2.5), (None, 3.5)), strict=False):
        claims = [
            {"name": name, "metric": metric, "threshold": threshold, "form": form, "value": value, "verdict": verdict}
            for value, (name, metric, threshold, form, verdict) in zip(
                values,
                [
                    ("rate", "rise", "at most +3.0 %", "%", "supported"),
                    ("length", "size|eta", "at most 2", ".1f", "no"),
                ],
                strict=True,
            )
            if value is not None
        ]
        (tmp_path / run / "analysis.json").write_text(json.dumps({"claims": claims}))
    text = compare(runs, tmp_path / "out")
    assert "| metric (threshold) | crate | vit |\n| --- | ---: | ---: |" in text
    assert "| rise (at most +3.0 %) | +3.0 % ± 1.4 % (2 of 2) | – |" in text
    assert "| size\\|eta (at most 2) | 2.0 ± 0.7 (0 of 2) | 3.5 (0 of 1) |" in text
