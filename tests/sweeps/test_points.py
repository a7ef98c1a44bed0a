"""What a sweep file says: combinations, names that stay, mistakes that are told."""

import json
import os
import subprocess

import pytest

from crate_jax.cli.main import main
from crate_jax.config import load_config, model_overrides
from crate_jax.errors import UserError
from crate_jax.models.registry import create_model, num_parameters
from crate_jax.sweeps.emit import emit
from crate_jax.sweeps.points import as_flags, chain, leaf, load_sweep, name_of, product, zipped

BASE = """
from crate_jax.config import load_config, model_overrides
from crate_jax.sweeps.points import chain, leaf, product, zipped
def get_config():
    return load_config("quickstart")
"""


def written(tmp_path, text):
    path = tmp_path / "question.py"
    path.write_text(BASE + text)
    return str(path)


def test_product_zip_and_chain():
    assert len(product(leaf("seed", range(3)), leaf("model.lambda_", [0.1, 0.5]))) == 6
    assert zipped(leaf("seed", [0, 1]), leaf("batch_size", [8, 16])) == [
        {"seed": 0, "batch_size": 8},
        {"seed": 1, "batch_size": 16},
    ]
    assert chain(leaf("seed", [0]), leaf("seed", [1])) == [{"seed": 0}, {"seed": 1}]
    with pytest.raises(UserError, match="do not pair up"):
        zipped(leaf("seed", [0]), leaf("seed", [1, 2]))
    with pytest.raises(UserError, match="set twice"):
        product(leaf("seed", [0]), leaf("seed", [1]))


def test_names_are_readable_and_stay():
    assert name_of({"model.lambda_": 0.5, "seed": 1}) == "lambda=0.5+seed=1"
    assert name_of({"a.x": 1, "b.x": 2}) == "a.x=1+b.x=2"
    assert name_of({}) == "base"
    long = name_of({"data.data_dir": "y" * 300})
    assert len(long) <= 100 and long == name_of({"data.data_dir": "y" * 300})
    assert "/" not in name_of({"data.data_dir": "/a b/c"}) and " " not in name_of({"data.data_dir": "/a b/c"})


def test_a_file_becomes_points_whose_flags_read_back(tmp_path):
    sweep = load_sweep(
        written(
            tmp_path, "def get_hyper(): return product(leaf('data.crop_scale', [(0.5, 1.0)]), leaf('seed', [0, 1]))"
        )
    )
    assert [point.name for point in sweep.points] == ["crop_scale=0.5_1.0+seed=0", "crop_scale=0.5_1.0+seed=1"]
    flags = [flag.removeprefix("--config.").partition("=") for flag in as_flags(sweep.points[1].overrides)]
    config = load_config(sweep.config, [(name, value) for name, _, value in flags])
    assert config.seed == 1 and config.data.crop_scale == (0.5, 1.0)


def test_points_made_by_numpy_are_plain_numbers(tmp_path):
    text = "import numpy as np\ndef get_hyper(): return leaf('seed', np.arange(2))"
    (_, point) = load_sweep(written(tmp_path, text)).points
    assert point.name == "seed=1" and json.dumps(point.overrides) == '{"seed": 1}'
    text = "import numpy as np\nEVALUATE = 'probe'\ndef get_hyper(): return "
    text += "[{'name': '..', 'masking.ratio': (np.float32(0.25), 0.5)}]"
    sweep = load_sweep(written(tmp_path, text))
    assert sweep.points[0].name == "point" and sweep.evaluate == ("probe",), "a folder within the sweep's own"
    assert as_flags(sweep.points[0].overrides) == ["--config.masking.ratio=(0.25, 0.5)"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no get_hyper"),
        ("def get_hyper(): return []", "no points"),
        ("def get_hyper(): return leaf('model.lamda', [1])", "no such setting"),
        ("def get_hyper(): return leaf('seed', [1, 1])", "several points"),
        ("EVALUATE = ('prob',)\ndef get_hyper(): return leaf('seed', [1])", "did you mean probe"),
        ("EVALUATE = ('',)\ndef get_hyper(): return leaf('seed', [1])", "EVALUATE has ''"),
        ("def get_hyper(): return [3]", "returns 3 among its points; a point is a dictionary"),
        ("def get_hyper(): raise SystemExit(2)", r"get_hyper\(\) fails: SystemExit: 2"),
        ("def get_hyper(): yield {}['seed']", r"get_hyper\(\) fails: KeyError: 'seed' \(line"),
        ("get_hyper = 3", "get_hyper"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence):
        load_sweep(written(tmp_path, text))


def test_the_shipped_comparison_has_its_points():
    sweep = load_sweep("crate_vs_vit")
    names = [point.name for point in sweep.points]
    assert len(names) == 16 and "photographs+crate_drop+seed=2" in names and "digits+vit+seed=0" in names


def test_a_preempted_point_is_queued_again_by_its_shell(tmp_path):
    """SIGTERM reaches the batch shell too, which died of it before it could."""
    stand_ins = {"srun": 'kill -TERM "$PPID"; sleep 0.2; exit 143', "scontrol": 'echo "$@"'}
    for name, lines in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    _, text = emit("slurm", load_sweep("crate_vs_vit"), str(tmp_path), None)
    environ = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "8"}
    environ |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    done = subprocess.run(["bash", "-c", text], env=os.environ | environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (143, "requeue 7_3\n")


def test_what_is_emitted_heeds_the_number_of_points_at_once(tmp_path, caplog, capsys):
    """Of SLURM one at once was all; of tpu_vm any number, and of all kinds a single point, were not heeded."""
    sweep = load_sweep("crate_vs_vit")
    assert "#SBATCH --array=0-15\n" in emit("slurm", sweep, "gs://b/s", None)[1]
    assert "#SBATCH --array=0-15%1\n" in emit("slurm", sweep, "gs://b/s", 1)[1]
    assert "parallelism: 1\n" in emit("jobset", sweep, "gs://b/s", None)[1] and not caplog.text
    assert "sbatch sweep.slurm\n" in emit("slurm", sweep, "gs://b/s", None)[1], "there is no file in the bucket"
    emit("jobset", sweep, str(tmp_path), None)
    assert "takes its disk along" in caplog.text
    with pytest.raises(UserError, match="--parallel=4: with --emit=tpu_vm"):
        emit("tpu_vm", sweep, "gs://b/s", 4)
    words = ["sweep", "--config=crate_vs_vit", f"--workdir={tmp_path}", "--emit=slurm", "--point=3"]
    assert main(words) == 1 and "--point=3: --emit is for all points" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["slurm", "jobset", "tpu_vm"])
def test_emitted_text_reaches_every_point(tmp_path, kind):
    sweep = load_sweep("crate_vs_vit")
    _, text = emit(kind, sweep, "gs://bucket/sweep", None if kind == "tpu_vm" else 4)
    if kind == "jobset":
        import yaml

        points = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
        assert points["completions"] == 16 and points["parallelism"] == 4 and points["completionMode"] == "Indexed"
    else:
        assert "srun --cpus-per-task" in text if kind == "slurm" else True
        assert "--output=crate-vs-vit-%a.txt" in text if kind == "slurm" else True  # SLURM cannot write to a bucket
        assert "--array=0-15%4" in text if kind == "slurm" else text.count("sky jobs launch") == 16
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_a_sweep_takes_the_argument_of_its_config():
    sweep, plain = load_sweep("white_box_family:muon"), load_sweep("white_box_family")
    assert load_config(sweep.config).optimizer.name == "muon" and load_config(plain.config).optimizer.name == "adamw"
    assert {point.fingerprint for point in sweep.points}.isdisjoint(point.fingerprint for point in plain.points)
    assert load_sweep(sweep.config) == load_sweep("white_box_family_muon") == sweep
    with pytest.raises(UserError, match="takes adamw, muon"):
        load_sweep("white_box_family:lion")


@pytest.mark.parametrize("name", ["crate_vs_vit", "white_box_family", "descent", "longer", "rate_term", "sparsity"])
def test_every_point_of_a_shipped_sweep_is_a_network_that_can_be_built(name):
    sweep = load_sweep(name)
    configs = [load_config(sweep.config, point.overrides.items()) for point in sweep.points]
    sizes = [num_parameters(create_model(config.model.name, **model_overrides(config))) for config in configs]
    assert all(0 < size < 5e6 for size in sizes), "points for two CPU cores"
    if name == "white_box_family":
        count = {
            point.name.rpartition("seed")[0].strip("-_+"): size for point, size in zip(sweep.points, sizes, strict=True)
        }
        assert abs(count["vit_small"] / count["crate"] - 1) < 0.05 and count["decoupled"] > count["overcomplete"]
