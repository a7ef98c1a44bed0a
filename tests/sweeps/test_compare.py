"""The table from workdirs that are written by hand."""

import csv
import json

import pytest

from crate_jax.config import load_config, to_json
from crate_jax.errors import UserError
from crate_jax.sweeps.compare import compare


def written(folder, seed, probe, **overrides):
    folder.mkdir(parents=True)
    leaves = {"seed": seed, **{name.replace("__", "."): value for name, value in overrides.items()}}
    (folder / "config.json").write_text(to_json(load_config("quickstart", leaves.items())))
    lines = [{"step": step, "loss": 1 / step, "images_per_second": 100.0 + step} for step in (1, 50, 100)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "probe.json").write_text(json.dumps({"accuracy": probe, "untrained_accuracy": 0.5}))
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
    assert "| a | 1 |" in compare([str(tmp_path)], tmp_path / "out")


def test_what_is_neither_run_nor_sweep(tmp_path):
    with pytest.raises(UserError, match="neither a run"):
        compare([str(tmp_path)], tmp_path / "out")
    run = written(tmp_path / "a", 0, 0.6)
    with pytest.raises(UserError, match="there is no such row"):
        compare([run], tmp_path / "out", baseline="b")
