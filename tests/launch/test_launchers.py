"""The launchers: each by its own tool where that is installed, and against stand-ins that note what they are told."""

import io
import os
import pathlib
import runpy
import shutil
import subprocess
import sys

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"
SCRIPTS = sorted(str(path.relative_to(LAUNCH)) for path in LAUNCH.rglob("*.sh"))
TASKS = sorted(LAUNCH.glob("sky/*.yaml"))
RUN = ["pretrain", "--config=imagenet_base", "--workdir=gs://bucket/a b"]
WHERE = {"CLUSTER": "c", "ZONE": "us-west4-a", "PROJECT": "p", "IMAGE": "i", "NAME": "n", "TYPE": "v5litepod-16"}

STAND_IN = """#!/usr/bin/env bash
printf '%s\\x1f' "$(basename "$0")" "$@" >>"$TOLD"
echo >>"$TOLD"
exit "${CODE:-0}"
"""


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A function that runs a launcher: (exit code, its output, the calls of stand-ins as lists of words)."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("xpk", "srun", "scontrol"):
        (tools / name).write_text(STAND_IN)
        (tools / name).chmod(0o755)

    def run(script, *words, **environ):
        record = tmp_path / "told"
        record.write_text("")
        environ = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "TOLD": str(record)} | environ
        words = ["bash", str(LAUNCH / script), *words]
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env=environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
        calls = [line.split("\x1f")[:-1] for line in record.read_text().splitlines()]
        return done.returncode, done.stdout, calls

    return run


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_has_nothing_to_say(script):
    beside = pathlib.Path(sys.executable).parent / "shellcheck"
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, "-x", f"launch/{script}"], cwd=LAUNCH.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def words_after_the_shell(command, **environ):
    """The words that a shell makes of a command."""
    done = subprocess.run(
        ["bash", "-c", f"crate-jax() {{ printf '%s\\n' \"$@\"; }}; {command}"],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_jobset_by_xpk(told):
    code, _, (call,) = told("gke/xpk.sh", *RUN, **WHERE, SLICES="2")
    assert code == 0 and call[:3] == ["xpk", "workload", "create"]
    wanted = {
        "--cluster=c",
        "--zone=us-west4-a",
        "--project=p",
        "--workload=n",
        "--tpu-type=v5litepod-16",
        "--num-slices=2",
    }
    assert wanted | {"--docker-image=i", "--restart-on-exit-codes=143,175"} < {*call}
    command = next(word for word in call if word.startswith("--command=")).removeprefix("--command=exec ")
    assert words_after_the_shell(command) == RUN, "quotes survive the second shell"
    assert told("gke/xpk.sh", *RUN, **WHERE, DRY_RUN="1")[2][0][-2:] == ["--dry-run", "--skip-validation"]


def test_mistakes_are_told_in_a_sentence(told):
    code, text, calls = told("gke/xpk.sh", *RUN)
    assert code != 0 and "CLUSTER" in text and calls == []
    code, text, calls = told("gke/xpk.sh", **WHERE)
    assert code != 0 and "say what to run" in text and calls == []


def test_xpk_itself_takes_the_command(tmp_path):
    """xpk prints the JobSet: a permanent error ends it, preemption and a lost host restart it."""
    xpk = shutil.which("xpk")
    if xpk is None:
        pytest.skip("xpk is not installed")
    done = subprocess.run(
        ["bash", str(LAUNCH / "gke/xpk.sh"), *RUN],
        env=os.environ | WHERE | {"DRY_RUN": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    codes = done.stdout.partition("values: [")[2].partition("]")[0].split(",")
    assert {"143", "175"} < set(codes) and "1" not in codes
    assert "terminationGracePeriodSeconds: 120" in done.stdout and "exec crate-jax pretrain" in done.stdout


@pytest.mark.parametrize("task", TASKS, ids=lambda path: path.stem)
def test_a_sky_task(task):
    read = yaml.safe_load(task.read_text())
    recovery = read["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == [143, 175] and recovery["max_restarts_on_errors"] == 0
    last = read["run"].strip().splitlines()[-1].replace("exec .venv/bin/", "")
    assert words_after_the_shell(last, COMMAND="pretrain --config=imagenet_base '--workdir=gs://bucket/a b'") == RUN
    for part in ("setup", "run"):
        assert subprocess.run(["bash", "-n"], input=read[part], text=True, check=False).returncode == 0


@pytest.mark.parametrize("task", TASKS, ids=lambda path: path.stem)
def test_sky_itself_takes_the_task(task):
    schemas = pytest.importorskip("sky.utils.schemas", reason="SkyPilot is not installed")
    import jsonschema

    read = yaml.safe_load(task.read_text())
    jsonschema.validate(read, schemas.get_task_schema())
    jsonschema.validate(read["resources"], schemas.get_resources_schema())


@pytest.mark.parametrize(
    ("code", "losses", "again"), [(0, 0, False), (143, 50, True), (1, 0, False), (175, 3, True), (175, 10, False)]
)
def test_a_slurm_job_is_queued_again_where_it_helps(told, tmp_path, code, losses, again):
    (tmp_path / "slurm-7.lost").write_text("once\n" * losses)
    environ = {"CODE": str(code), "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "5", "CRATE_JAX_PYTHON": "/v/python"}
    ended, _, calls = told("slurm/train.sh", *RUN, **environ)
    assert calls[0] == ["srun", "--kill-on-bad-exit=0", "--cpus-per-task=5", "/v/python", "-m", "crate_jax", *RUN]
    assert (calls[1:] == [["scontrol", "requeue", "7"]]) == again
    assert ended == code


def test_a_pod_whose_output_nobody_reads_goes_on(monkeypatch):
    class Left(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    lines = iter(["step 1\n", "step 2\n"])
    monkeypatch.setattr("sys.stdout", Left())
    runpy.run_path(str(LAUNCH / "local_pod.py"))["pass_on"](lines, 0)
    assert next(lines, None) is None, "the process would wait for a full pipe"
