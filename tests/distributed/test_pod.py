"""Several processes on the loopback device: they stop together, notice a lost one, and any number of them goes on.

One run in three lives: two processes, one told to stop; two with other meshes and the last checkpoint cut in half, one
killed with -9; one alone. It ends with the losses of a run that was never disturbed.
"""

import json
import os
import re
import signal
import sys

import numpy as np
import pytest
from PIL import Image

from crate_jax.cli.main import run
from crate_jax.config import override
from crate_jax.training.pretraining import pretrain
from tests.distributed.pods import Pod, together
from tests.training.test_resume import command

MORE = {"total_steps": 72, "batch_size": 8, "measure_every_steps": 0, "distributed.lost_host_seconds": 20}


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return np.array([line["loss"] for line in lines])


def newest(workdir):
    steps = [path for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    return max(steps, key=lambda path: int(path.name))


# hosts look for the lock of host 0 for twenty seconds, since a network file system may show it late
HASTY = """
import sys
from crate_jax.cli.main import main
from crate_jax.training import run
run._SECONDS_TO_APPEAR = 1
sys.exit(main(sys.argv[1:]))
"""


def test_three_lives_of_one_run(tmp_path, tiny, digits):
    workdir = tmp_path / "run"

    pod = Pod(command(tmp_path, digits, workdir, **MORE), processes=2, devices=1)
    pod.wait_for(r"step 6/")
    os.kill(pod.pids[1], signal.SIGTERM)
    code, text, _ = pod.end()
    assert code == 143, text
    stopped = int(re.search(r"preempted at step (\d+)", text)[1])
    cut = newest(workdir)
    assert int(cut.name) == stopped < MORE["total_steps"]

    biggest = max((path for path in cut.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(biggest, biggest.stat().st_size // 2)
    words = command(tmp_path, digits, workdir, **MORE, **{"mesh.fsdp": 2, "mesh.tensor": 2})
    pod = Pod(words, processes=2, devices=2)
    pod.wait_for(rf"the checkpoint of step {stopped} cannot be read")
    before = int(pod.wait_for(r"resuming at step (\d+)")[1])
    assert 0 < before < stopped and (workdir / "checkpoints" / f"broken_{stopped}").is_dir()
    pod.wait_for(rf"step {stopped + 6}/")
    os.kill(pod.pids[1], signal.SIGKILL)
    code, text, seconds = pod.end()
    assert code == 128 + signal.SIGKILL, text
    assert seconds < 20 + 10
    assert re.search(r"another host of this run was lost|another task died", text), text
    assert len(losses(workdir)) < MORE["total_steps"]

    pretrain(override(tiny, MORE.items()), str(workdir))
    pretrain(override(tiny, (MORE | {"checkpoint.every_steps": 1000}).items()), str(tmp_path / "straight"))
    np.testing.assert_allclose(losses(workdir), losses(tmp_path / "straight"), rtol=2e-5)


@pytest.mark.parametrize(
    ("both", "second", "says"),
    [
        ({"batch_size": 9}, {}, "batch_size=9"),
        ({}, {"workdir": "elsewhere"}, "is not the folder that host 0 has under this name"),
        (
            {"data.name": "image_folder"},
            {"data.data_dir": "{folder}/odd"},
            "/odd) what it is on host 0; give every host",
        ),
    ],
)
def test_hosts_that_cannot_run_together_end_with_one_sentence(tmp_path, digits, both, second, says):
    picture = Image.fromarray(np.zeros((28, 28), np.uint8))
    for name, count in (("same", 10), ("odd", 9)):
        for number in range(count):
            path = tmp_path / name / "train" / "class" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        (tmp_path / name / "test").mkdir()
        picture.save(tmp_path / name / "test" / "1.png")
    more = MORE | both | ({"data.data_dir": tmp_path / "same"} if "data.name" in both else {})
    workdirs = [tmp_path / "run", tmp_path / second.pop("workdir", "run")]
    words = [command(tmp_path, digits, workdir, **more) for workdir in workdirs]
    words[1] += [f"--config.{name}={value.format(folder=tmp_path)}" for name, value in second.items()]
    ends = together(*([sys.executable, "-c", HASTY, *line[3:]] for line in words))
    assert [code for code, _ in ends] == [1, 1], ends
    for _, text in ends:
        assert says in text and "Traceback" not in text and "Fatal" not in text, text
    assert not any(workdir.exists() and any(workdir.iterdir()) for workdir in workdirs)


EVERY_COMMAND = """
import pathlib, sys
from crate_jax.cli.main import run
from crate_jax.config import default_config
from crate_jax.distributed.hosts import joined
with joined(default_config().distributed):
    for line in pathlib.Path(sys.argv[1]).read_text().splitlines():
        assert run(line.split("\\x1f")) == 0, line
"""


RECIPE = {"total_steps": 3, "batch_size": 12, "log_every_steps": 1, "optimizer.warmup_steps": 1}
QUICK = [
    "knn --workdir={} --features=mean@encoder_00",
    "features --workdir={} --split=test[:50] --out={}/f.npz",
]
SLOW = [
    "reconstruct --workdir={} --limit=16",
    "analyze --workdir={} --limit=8",
    "probe --workdir={} --features=mean@encoder_00 --shots=none",
    "probe --workdir={} --protocol=attentive",
    " ".join(["finetune --workdir={}", *(f"--config.{name}={value}" for name, value in RECIPE.items())]),
    " ".join(
        ["finetune --workdir={} --labels_per_class=2 --draws=1"]
        + [f"--config.{name}={value}" for name, value in RECIPE.items()]
    ),
]


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param(QUICK, id="quick"),
        pytest.param(
            SLOW,
            id="slow",
            marks=pytest.mark.skipif(
                "CRATE_JAX_SLOW_TESTS" not in os.environ, reason="ten minutes; CRATE_JAX_SLOW_TESTS=1 runs it"
            ),
        ),
    ],
)
def test_every_command_on_three_hosts(tmp_path, digits, commands):
    """Its numbers are those of one process; one after the other in the same processes, so that they start once."""
    short = {"total_steps": 2, "batch_size": 12, "evaluate_every_steps": 2, "measure_every_steps": 0, "model.depth": 1}
    short |= {"data.train_split": "train[:64]", "data.validation_split": "test[:64]", "optimizer.warmup_steps": 1}
    found = {}
    for hosts in (1, 3):
        workdir = tmp_path / f"run{hosts}"
        lines = [command(tmp_path, digits, workdir, **short)[3:]]
        lines += [line.replace("{}", str(workdir)).split() for line in commands]
        if hosts == 1:
            assert [run(line) for line in lines] == [0] * len(lines)
        else:
            (tmp_path / "lines").write_text("\n".join("\x1f".join(line) for line in lines))
            words = [sys.executable, "-c", EVERY_COMMAND, str(tmp_path / "lines")]
            ends = together(*[words] * hosts, timeout=60 + 120 * len(commands))
            assert [code for code, _ in ends] == [0] * hosts, ends
        found[hosts] = numbers(workdir)
        assert not list(workdir.rglob("*.partial")) and not list(workdir.rglob("*.draft"))
    assert found[1].keys() == found[3].keys() and len(found[1]) > len(commands)
    for name, value in found[1].items():
        atol = 1e-4 if name == "features" else 0.04 if "accuracy" in name else 1e-3
        np.testing.assert_allclose(found[3][name], value, rtol=1e-3, atol=atol, err_msg=name)


def test_fine_tuning_where_hosts_hold_parts_of_the_parameters(tmp_path, digits):
    """A head on a frozen encoder, and the whole: no host holds a whole array."""
    short = {"total_steps": 1, "batch_size": 8, "measure_every_steps": 0, "model.depth": 1, "mesh.fsdp": 2}
    short |= {"data.train_split": "train[:32]", "data.validation_split": "test[:16]", "optimizer.warmup_steps": 0}
    workdir = tmp_path / "run"
    recipe = [f"--config.{name}={short[name]}" for name in ("total_steps", "batch_size", "mesh.fsdp")]
    lines = [command(tmp_path, digits, workdir, **short)[3:]]
    lines += [["probe", f"--workdir={workdir}", "--protocol=mae", "--config.optimizer.warmup_epochs=0", *recipe]]
    lines += [["finetune", f"--workdir={workdir}", "--config.optimizer.warmup_steps=0", *recipe]]
    (tmp_path / "lines").write_text("\n".join("\x1f".join(line) for line in lines))
    ends = together(*[[sys.executable, "-c", EVERY_COMMAND, str(tmp_path / "lines")]] * 2)
    assert [code for code, _ in ends] == [0, 0], ends
    for file in ("probe_mae.json", "finetune.json"):
        assert json.loads((workdir / file).read_text())["test_examples"] == 16


def numbers(workdir):
    """What the commands wrote: names to numbers."""
    line = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    found = {"loss": line["loss"], "accuracy within training": [line["evaluation/knn"], line["evaluation/probe"]]}
    for path in workdir.glob("*.json"):
        results = json.loads(path.read_text())
        found |= {f"{path.stem}: {key}": results[key] for key in ("accuracy", "masked_mse", "psnr") if key in results}
        if path.stem == "few_labels":
            found["few labels: accuracy"] = [results[key] for key in ("pretrained", "from_scratch", "raw_pixels")]
        if path.stem == "analysis":
            found["layers"] = [(layer["coding_rate"], layer["nonzero"]) for layer in results["layers"]]
    if (workdir / "f.npz").exists():
        found["features"] = np.load(workdir / "f.npz")["features_NxG"]
    return found


def test_the_launcher_ends_with_the_first_failure():
    words = [*command_words("inspect"), "--model=crate_mae_tyni"]
    code, text, _ = Pod(words, processes=2, devices=1).end()
    assert code == 1
    assert "did you mean crate_mae_tiny" in text
    assert {line[:3] for line in text.splitlines() if "tyni" in line} <= {"[0]", "[1]"}


def command_words(name):
    return [sys.executable, "-m", "crate_jax", name]
