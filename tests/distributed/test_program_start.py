"""How the program starts: with large pages where it computes on a CPU, and with what was compiled before."""

import os
import subprocess
import sys

import pytest

from crate_jax.distributed import compilation_cache, host_memory
from crate_jax.sweeps import run

PROGRAM = """
import os, sys
from crate_jax.__main__ import program
sys.argv[1:] = [{command!r}, "--help"]
print("started", os.getpid(), os.environ.get("GLIBC_TUNABLES"), flush=True)
program()
"""


def starts(command, **environment):
    """How often a command line is started: (process, setting) each time."""
    cleared = {name: value for name, value in os.environ.items() if name != host_memory.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(command=command)],
        env={**cleared, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("started")]


@pytest.mark.skipif(sys.platform != "linux" or not host_memory.glibc_knows_them(), reason="glibc 2.35 has them")
def test_what_computes_on_a_cpu_starts_again_with_large_pages():
    (first, before), (second, after) = starts("pretrain")
    assert (before, after) == ("None", host_memory.large_pages()) and first == second
    assert "glibc.malloc.hugetlb=1" in after


def test_a_setting_of_ones_own_stays_and_what_computes_nothing_starts_once():
    assert len(starts("inspect")) == 1
    assert [setting for _, setting in starts("pretrain", GLIBC_TUNABLES="glibc.malloc.perturb=0")] == [
        "glibc.malloc.perturb=0"
    ]


def test_what_was_compiled_is_kept_also_where_something_was_compiled_before(tmp_path):
    code = f"""
import jax
jax.jit(lambda x: x + 1)(1.0)
from crate_jax.distributed import compilation_cache
compilation_cache.FEWEST_SECONDS = 0.0
compilation_cache.keep_compiled({str(tmp_path)!r})
jax.jit(lambda x: x * 2)(1.0)
"""
    environment = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    assert list((tmp_path / "compiled").iterdir())


def test_points_of_a_sweep_share_what_is_compiled(tmp_path, monkeypatch):
    found = []

    class Child:
        pid = os.getpid()

        def __init__(self, *_, env, **__):
            found.append((env["JAX_COMPILATION_CACHE_DIR"], env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]))

        def wait(self):
            return 0

    monkeypatch.setattr(run.subprocess, "Popen", Child)
    for folder, seconds in ((None, None), ("mine", "7")):
        for name, value in zip(compilation_cache.shared_cache(""), (folder, seconds), strict=True):
            monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
        run.Runner(None, tmp_path, None)._child([], tmp_path / "log", {}, sorted(os.sched_getaffinity(0)))
    assert found == [(str(tmp_path / "compiled"), str(compilation_cache.FEWEST_SECONDS)), ("mine", "7")]
