"""The launchers against stand-ins for gcloud, xpk, sbatch and srun that write down what they were told."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"
SCRIPTS = sorted(str(path.relative_to(LAUNCH)) for path in LAUNCH.rglob("*.sh"))
POD = ["--name=base", "--zone=us-west4-a", "--type=v5litepod-16", "--poll=0"]
RUN = ["--", "pretrain", "--config=imagenet_base", "--workdir=gs://bucket/a b"]

STAND_IN = """#!/usr/bin/env bash
printf '%s\\x1f' "$(basename "$0")" "$@" >>"$TOLD"
echo >>"$TOLD"
case "$*" in
    *describe*) # the states, one after the other; the last stays
        head -n 1 "$STATES"
        if [ "$(wc -l <"$STATES")" -gt 1 ]; then sed -i 1d "$STATES"; fi ;;
    *"tail -n 1"*) echo "keep_running: $ENDING" ;;
esac
exit "${CODE:-0}"
"""


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A function that runs a launcher and returns (exit code, its output, the calls of stand-ins as lists of words)."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("gcloud", "xpk", "sbatch", "srun", "scontrol", "docker"):
        (tools / name).write_text(STAND_IN)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def run(script, *words, states=("ACTIVE",), ending="finished", **environ):
        record, list_of_states = tmp_path / "told", tmp_path / "states"
        record.write_text("")
        list_of_states.write_text("".join(f"{state}\n" for state in states))
        environ = os.environ | {"TOLD": str(record), "STATES": str(list_of_states), "ENDING": ending} | environ
        words = ["bash", str(LAUNCH / script), *words]
        done = subprocess.run(
            words, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
        )
        calls = [line.split("\x1f")[:-1] for line in record.read_text().splitlines()]
        return done.returncode, done.stdout, calls

    return run


def verbs(calls):
    """Which of gcloud's verbs were used, in order, questions left out."""
    known = ("create", "delete", "scp", "ssh")
    found = [next((word for word in call if word in known), None) for call in calls]
    return [verb for verb, call in zip(found, calls, strict=True) if verb and "tail" not in " ".join(call)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_has_nothing_to_say(script):
    beside = pathlib.Path(sys.executable).parent / "shellcheck"
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, "-x", f"launch/{script}"], cwd=LAUNCH.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_run_on_tpu_vms(told):
    code, _, calls = told("tpu_vm/pod.sh", "run", *POD, "--spot=1", *RUN, states=("WAITING_FOR_RESOURCES", "ACTIVE"))
    assert code == 0
    assert verbs(calls) == ["create", "scp", "ssh", "ssh"]
    create = next(call for call in calls if "create" in call)
    assert create[:5] == ["gcloud", "compute", "tpus", "queued-resources", "create"]
    assert {"--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--node-id=base", "--spot"} < {
        *create
    }
    start = next(call for call in calls if any("keep_running.sh" in word for word in call))
    assert "--worker=all" in start
    command = start[-1].removeprefix("--command=cd crate_jax && bash launch/tpu_vm/keep_running.sh ")
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True).stdout
    assert words.splitlines() == RUN[1:], "quotes survive the second shell"


def test_a_tpu_that_is_taken_away_is_asked_for_again(told):
    code, text, calls = told("tpu_vm/pod.sh", "run", *POD, *RUN, states=("ACTIVE", "SUSPENDED", "ACTIVE"))
    assert code == 0
    assert "was taken away" in text
    assert verbs(calls) == ["create", "scp", "ssh", "ssh", "delete", "create", "scp", "ssh", "ssh"]


def test_a_command_that_cannot_work_ends_the_watch(told):
    code, text, _ = told("tpu_vm/pod.sh", "run", *POD, *RUN, ending="gave up after five quick failures")
    assert code == 1
    assert "gave up" in text


def test_several_slices_have_several_nodes(told):
    _, _, calls = told("tpu_vm/pod.sh", "start", *POD, "--slices=2", *RUN)
    assert [call[5] for call in calls] == ["base-0", "base-1"]


@pytest.mark.parametrize(
    ("script", "words", "says"),
    [
        ("tpu_vm/pod.sh", ["run", *POD, *RUN], "queued-resources create base"),
        ("tpu_vm/pod.sh", ["delete", *POD], "queued-resources delete base"),
        ("gke/jobset.sh", ["submit", "--cluster=c", "--name=n", "--type=v5p-8", "--image=i", *RUN], "workload create"),
        ("gke/jobset.sh", ["image", "--image=i"], "docker push i"),
        ("slurm/submit.sh", ["--nodes=2", *RUN], "sbatch --job-name=crate-jax --nodes=2"),
    ],
)
def test_a_dry_run_only_prints(told, script, words, says):
    code, text, calls = told(script, words[0], "--dry-run", *words[1:])
    assert code == 0, text
    assert says in text
    assert calls == []


@pytest.mark.parametrize(
    ("script", "words", "says"),
    [
        ("tpu_vm/pod.sh", ["run", "--name=x"], "--zone is missing"),
        ("tpu_vm/pod.sh", ["run", "--nam=x"], "there is no flag --nam"),
        ("tpu_vm/pod.sh", ["fly", *POD], "there is no action fly"),
        ("tpu_vm/pod.sh", ["create", *POD, "--type=v9-8"], "--type=v9-8 is none of"),
        ("tpu_vm/pod.sh", ["start", *POD], "say what to run after --"),
        ("gke/jobset.sh", [], "say what to do"),
        ("slurm/submit.sh", ["pretrain"], "write --NAME=VALUE"),
    ],
)
def test_mistakes_are_told_in_a_sentence(told, script, words, says):
    code, text, calls = told(script, *words)
    assert (code, calls) == (1, [])
    assert says in text


def test_a_jobset(told):
    words = ["--cluster=c", "--name=n", "--type=v5litepod-16", "--slices=2", "--image=i", "--zone=z", *RUN]
    _, _, (call,) = told("gke/jobset.sh", "submit", *words)
    assert call[:4] == ["xpk", "workload", "create", "--cluster=c"]
    assert {"--zone=z", "--workload=n", "--tpu-type=v5litepod-16", "--num-slices=2", "--docker-image=i"} < {*call}
    assert call[-1] == r"--command=crate-jax pretrain --config=imagenet_base --workdir=gs://bucket/a\ b"


def test_a_slurm_job(told):
    _, _, (call,) = told("slurm/submit.sh", "--nodes=2", "--gpus=4", "--partition=p", *RUN)
    assert {"sbatch", "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--partition=p"} < {*call}
    assert call[-4:] == [str(LAUNCH / "slurm" / "job.sh"), *RUN[1:]]


@pytest.mark.parametrize(
    ("code", "restarts", "again"), [(0, "0", False), (143, "50", True), (1, "3", True), (1, "10", False)]
)
def test_a_slurm_job_is_queued_again_where_it_helps(told, code, restarts, again):
    ended, _, calls = told(
        "slurm/job.sh", *RUN[1:], CODE=str(code), SLURM_RESTART_COUNT=restarts, SLURM_JOB_ID="7", CRATE_JAX_VENV="/v"
    )
    assert calls[0] == ["srun", "--kill-on-bad-exit=0", "/v/bin/python", "-m", "crate_jax", *RUN[1:]]
    assert (calls[1:] == [["scontrol", "requeue", "7"]]) == again
    assert ended == code


@pytest.mark.parametrize(("failures", "code", "says"), [(2, 0, "finished"), (9, 1, "gave up after five")])
def test_a_worker_keeps_its_command_running(tmp_path, failures, code, says):
    python = tmp_path / "python"
    python.write_text(f'#!/usr/bin/env bash\necho ran "$@" >>ran\n[ "$(wc -l <ran)" -gt {failures} ]\n')
    python.chmod(0o755)
    environ = os.environ | {"CRATE_JAX_PYTHON": str(python), "CRATE_JAX_PAUSE": "0", "CRATE_JAX_DETACHED": "1"}
    words = ["bash", str(LAUNCH / "tpu_vm" / "keep_running.sh"), *RUN[1:]]
    done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1].startswith(f"keep_running: {says}")
    ran = (tmp_path / "ran").read_text().splitlines()
    assert ran == ["ran -m crate_jax " + " ".join(RUN[1:])] * min(failures + 1, 5)
