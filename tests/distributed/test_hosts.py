"""Which processes belong together, and a run that is stuck."""

import errno
import json
import os
import subprocess
import sys
import types

import pytest

from crate_jax.config import default_config, override
from crate_jax.distributed import hosts
from crate_jax.distributed.cluster import find_cluster
from crate_jax.distributed.hosts import _is_about_another_host
from crate_jax.distributed.mesh import mesh_shape, slices_of
from crate_jax.errors import UserError

BY_HAND = {"CRATE_JAX_COORDINATOR": "10.0.0.1:1234", "CRATE_JAX_PROCESSES": "4", "CRATE_JAX_PROCESS": "3"}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


def alone():
    return 1


@pytest.mark.parametrize(
    ("environ", "workers", "found"),
    [
        ({}, 1, None),
        ({}, 4, {}),
        ({"JAX_PLATFORMS": "cpu"}, 4, None),
        ({"JAX_PLATFORMS": "tpu,cpu"}, 4, {}),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "16"}, 1, {}),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, 1, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16"}, 1, None),  # a batch script outside srun
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, 1, {}),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, 1, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"}, 1, {}),
        (BY_HAND | {"CRATE_JAX_PROCESSES": "1", "CRATE_JAX_PROCESS": "0"}, 1, None),
    ],
)
def test_a_cluster_is_found_where_there_is_one(environ, workers, found):
    assert find_cluster(environ, tpu_workers=lambda: workers) == found


def test_by_hand_wins_and_is_checked():
    found = find_cluster(SLURM | {"SLURM_STEP_NUM_TASKS": "16"} | BY_HAND, alone)
    assert (found["coordinator_address"], found["num_processes"], found["process_id"]) == ("10.0.0.1:1234", 4, 3)
    with pytest.raises(UserError, match="CRATE_JAX_PROCESSES"):
        find_cluster({"CRATE_JAX_COORDINATOR": "a:1", "CRATE_JAX_PROCESS": "0"}, alone)
    with pytest.raises(UserError, match="CRATE_JAX_PROCESS=4"):
        find_cluster(BY_HAND | {"CRATE_JAX_PROCESS": "4"}, alone)
    with pytest.raises(UserError, match="'two'"):
        find_cluster(BY_HAND | {"CRATE_JAX_PROCESSES": "two"}, alone)


def test_what_xla_says_of_a_lost_host_is_understood():
    gloo = "UNKNOWN: Gloo all-reduce failed: [gloo/transport/tcp/pair.cc:538] Read error: Connection reset by peer"
    assert _is_about_another_host(RuntimeError(gloo))
    assert not _is_about_another_host(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."))
    assert not _is_about_another_host(KeyError("heartbeat"))


@pytest.mark.parametrize(("number", "code"), [(errno.EIO, 175), (errno.ENOSPC, 1), (errno.ENOENT, 1)])
def test_a_host_without_its_storage_ends_the_others_with_its_code(number, code, monkeypatch, capsys):
    said, ended = {}, []
    client = types.SimpleNamespace(key_value_set=lambda key, text: said.update({key: json.loads(text)}))
    here = types.SimpleNamespace(num_processes=2, process_id=1, client=client)
    monkeypatch.setattr(hosts, "cluster", lambda: here)
    monkeypatch.setattr(hosts, "_ending", [])
    monkeypatch.setattr(hosts, "_NOTICE_SECONDS", 0.2)
    monkeypatch.setattr(hosts.os, "_exit", ended.append)
    hosts.abandon(OSError(number, os.strerror(number), "/nfs/probe.json"))
    assert ended == [code] and said["crate_jax/failed/1"][0] == code and "/nfs/probe.json" in capsys.readouterr().err


def test_slices_are_counted_where_the_config_does_not_say():
    chips = [types.SimpleNamespace(platform="tpu", slice_index=number // 4) for number in range(8)]
    assert slices_of(chips) == 2 and slices_of([types.SimpleNamespace(platform="cpu")] * 8) == 1
    mesh = override(default_config(), [("mesh.fsdp", 4)]).mesh
    assert mesh_shape(mesh, 8, slices_of(chips)) == (2, 4, 1)


STUCK = """
import threading, time
from crate_jax.distributed.watchdog import Watchdog

def waits_for_a_host_that_never_answers():
    time.sleep(60)

watchdog = Watchdog({seconds})
for step in range(1, 6):
    watchdog.after_step(step, None, None)
    time.sleep(0.1)
if {close}:
    watchdog.close()
    time.sleep(1.5)
else:
    threading.Thread(target=waits_for_a_host_that_never_answers, daemon=True).start()
    time.sleep(60)
"""


@pytest.mark.parametrize(("seconds", "close", "code"), [(0.8, False, 175), (0.8, True, 0), (0, True, 0)])
def test_a_run_that_is_stuck_tells_where_and_ends(seconds, close, code):
    words = [sys.executable, "-c", STUCK.format(seconds=seconds, close=close)]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == code, done.stderr
    if code:
        assert "no progress for 0.8 s (distributed.stall_seconds) after step 5" in done.stderr
        assert "waits_for_a_host_that_never_answers" in done.stderr and "<module>" in done.stderr
    else:
        assert done.stderr == ""


STOPPED = """
import os, signal, subprocess, time
from crate_jax.distributed import watchdog
watchdog._BACKSTOP, watchdog._GAP = 0.2, 0.5
watching = watchdog.Watchdog(1.0)
subprocess.Popen(["sh", "-c", f"sleep 3; kill -CONT {os.getpid()}"])
os.kill(os.getpid(), signal.SIGTSTP)
time.sleep(0.5)
watching.close()
assert signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL
print("went on")
"""


def test_time_in_which_a_run_was_stopped_is_no_time_without_progress():
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")
