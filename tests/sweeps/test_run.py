"""A sweep's bookkeeping, with its commands replaced by a notebook; one real point runs in tests/evaluation."""

import json
import os

import pytest

from crate_jax.cli.main import main
from crate_jax.distributed.cluster import without_cluster
from crate_jax.distributed.devices import chips
from crate_jax.distributed.folder_lock import FolderLock
from crate_jax.errors import UserError
from crate_jax.sweeps import run
from crate_jax.sweeps.points import Point, Sweep

BY_HAND = {"CRATE_JAX_COORDINATOR": "10.0.0.1:1234", "CRATE_JAX_PROCESSES": "4", "CRATE_JAX_PROCESS": "3"}


@pytest.fixture
def sweep(tmp_path):
    points = [Point(f"seed={seed}", {"seed": seed}) for seed in range(3)]
    return Sweep(str(tmp_path / "question.py"), points, ("probe", "knn --k=5"))


@pytest.fixture
def told(monkeypatch):
    """What the children were told; `told.fail` are commands that fail."""

    class Told(list):
        fail = ()
        code = 1

    lines = Told()

    def child(self, arguments, log, environment, cores):
        lines.append(arguments)
        log.write_text("crate-jax: no such thing\n")
        return lines.code if any(word in " ".join(arguments) for word in lines.fail) else 0

    monkeypatch.setattr(run.Runner, "_child", child)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    return lines


def test_points_run_and_are_not_run_again(sweep, tmp_path, told):
    assert set(run.run_sweep(sweep, tmp_path).values()) == {"done"}
    assert len(told) == 9 and told[0][:1] == ["pretrain"] and "--config.seed=0" in told[0]
    assert told[2] == ["knn", f"--workdir={tmp_path}/seed=0", "--k=5"]
    assert set(run.run_sweep(sweep, tmp_path).values()) == {"done"}
    assert len(told) == 9
    listed = json.loads((tmp_path / "sweep.json").read_text())["points"]
    assert [point["status"] for point in listed] == ["done"] * 3 and listed[1]["overrides"] == {"seed": 1}


def test_a_failing_point_stops_no_other_and_goes_on_from_its_command(sweep, tmp_path, told):
    told.fail = ["probe --workdir=" + str(tmp_path / "seed=1")]
    statuses = run.run_sweep(sweep, tmp_path, parallel=2)
    assert statuses == {"seed=0": "done", "seed=1": "failed", "seed=2": "done"}
    failed = json.loads((tmp_path / "sweep.json").read_text())["points"][1]
    assert failed["error"] == "crate-jax: no such thing" and failed["command"] == "probe"
    told.code = -9
    run.run_sweep(sweep, tmp_path)
    failed = json.loads((tmp_path / "sweep.json").read_text())["points"][1]
    assert failed["error"].startswith(
        "it was killed by signal 9 (SIGKILL), often for want of memory; its last line: cra"
    )
    told.fail, before = (), len(told)
    assert run.run_sweep(sweep, tmp_path)["seed=1"] == "done"
    assert [arguments[0] for arguments in told[before:]] == ["probe", "knn"]


def test_a_point_whose_folder_cannot_be_used_stops_no_other(sweep, tmp_path, told):
    (tmp_path / "seed=0").write_text("a file")
    (tmp_path / "seed=1" / run.DONE).mkdir(parents=True)
    assert run.run_sweep(sweep, tmp_path) == {"seed=0": "failed", "seed=1": "failed", "seed=2": "done"}
    listed = json.loads((tmp_path / "sweep.json").read_text())["points"]
    for name, point in zip(("seed=0", "seed=1"), listed, strict=False):
        assert point["status"] == "failed" and f"{tmp_path / name} cannot be used" in point["error"]
    (tmp_path / "sweep.json").unlink()
    (tmp_path / "sweep.json").mkdir()
    with pytest.raises(UserError, match="json cannot be written"):
        run.run_sweep(sweep, tmp_path)


@pytest.mark.parametrize(("codes", "ends"), [((175, 0, 0), 175), ((175, 1, 0), 1), ((0, 0, 0), 0)])
def test_a_point_that_lost_its_storage_is_run_again_by_launchers(codes, ends, sweep, tmp_path, told, monkeypatch):
    monkeypatch.setattr("crate_jax.sweeps.points.load_sweep", lambda name: sweep)
    codes = dict(zip(("seed=0", "seed=1", "seed=2"), codes, strict=True))
    monkeypatch.setattr(
        run.Runner,
        "_child",
        lambda self, arguments, log, *_: (log.write_text("said"), codes[arguments[1].rpartition("/")[2]])[1],
    )
    monkeypatch.setattr(
        "crate_jax.sweeps.run.commands_of", lambda sweep, point, folder: [("knn", ["knn", f"/{point.name}"])]
    )
    assert main(["sweep", "--config=question", f"--workdir={tmp_path}"]) == ends
    statuses = [point["status"] for point in json.loads((tmp_path / "sweep.json").read_text())["points"]]
    assert statuses == [{0: "done", 1: "failed", 175: "lost"}[code] for code in codes.values()]


def test_told_to_stop_no_further_point_begins(sweep, tmp_path, told, monkeypatch):
    child = run.Runner._child

    monkeypatch.setattr(run.Runner, "_child", lambda self, *a: (self.stop(), child(self, *a))[1])
    assert set(run.run_sweep(sweep, tmp_path).values()) == {"stopped"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"overrides": 3, "commands": 3}'])
def test_a_damaged_note_of_what_is_done_is_none(text, tmp_path):
    point = Point("a", {"seed": 1}, "x")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / run.DONE).write_text(text)
    assert run.finished(tmp_path, point) == []


def test_changed_overrides_run_again(sweep, tmp_path, told):
    run.run_sweep(sweep, tmp_path)
    changed = Sweep(sweep.config, [Point("seed=0", {"seed": 7})], sweep.evaluate)
    before = len(told)
    run.run_sweep(changed, tmp_path)
    assert len(told) == before + 3


def test_each_point_at_once_gets_chips_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    (one, cores), (two, others) = run.shares(2, "cuda", 4, [0, 1, 2, 3])
    assert one == {"CUDA_VISIBLE_DEVICES": "4,5"} and two == {"CUDA_VISIBLE_DEVICES": "6,7"}
    assert cores == [0, 1] and others == [2, 3]
    chips = [environment["TPU_VISIBLE_CHIPS"] for environment, _ in run.shares(4, "tpu", 4, [0])]
    assert chips == ["0", "1", "2", "3"]
    monkeypatch.setenv("TPU_VISIBLE_CHIPS", "2, 3")
    assert [environment["TPU_VISIBLE_CHIPS"] for environment, _ in run.shares(2, "tpu", 2, [0])] == ["2", "3"]
    with pytest.raises(UserError, match="there are 4 chips"):
        run.shares(5, "tpu", 4, [0])


def test_points_share_gpus_that_are_fewer(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    shared = [environment for environment, _ in run.shares(5, "cuda", 2, [0])]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in shared] == ["2", "5", "2", "5", "2"]
    assert {environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] for environment in shared} == {"0.300"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (alone, _), *_ = run.shares(1, "cuda", 1, [0])
    assert alone == {}


def test_a_point_that_is_not_there(sweep):
    assert run.find_point(sweep, "1").name == run.find_point(sweep, "seed=1").name == "seed=1"
    for name in ("9", "²", "9" * 5000):
        with pytest.raises(UserError, match="no such point"):
            run.find_point(sweep, name)


def test_two_processes_do_not_run_one_sweep(sweep, tmp_path, told, monkeypatch):
    with FolderLock(tmp_path, "sweep", run.SWEEP_LOCK), pytest.raises(UserError, match="another sweep"):
        run.run_sweep(sweep, tmp_path)
    assert set(run.run_sweep(sweep, tmp_path).values()) == {"done"}
    for name, value in BY_HAND.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="one of several processes"):
        run.run_sweep(sweep, tmp_path)
    assert not {*BY_HAND, "SLURM_STEP_NUM_TASKS"} & {*without_cluster(os.environ | {"SLURM_STEP_NUM_TASKS": "4"})}


def test_hidden_tpu_chips_do_not_count(monkeypatch):
    monkeypatch.setattr("crate_jax.distributed.devices.tpu_chips", lambda: True)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setenv("TPU_VISIBLE_CHIPS", "1,3")
    assert chips() == ("tpu", 2)


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("-1", ("cpu", 0)), ("0,1", ("cuda", 2)), ("3,-1,4", ("cuda", 1)), ("NoDevFiles", ("cpu", 0)), ("", ("cpu", 0)),
        ("GPU-8932f937, MIG-GPU-1/1/0", ("cuda", 2)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("platforms", ["cuda", "cuda,cpu", "gpu"])
def test_hidden_chips_do_not_count(monkeypatch, visible, found, platforms):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert chips() == found
