"""What was compiled before is found again when the program starts."""

import os
import subprocess
import sys

from etils import epath

from crate_jax.distributed import compilation_cache
from crate_jax.sweeps import run


def test_what_was_compiled_is_kept_also_where_something_was_compiled_before(tmp_path):
    code = f"""
import jax
jax.jit(lambda x: x + 1)(1.0)
from crate_jax.distributed import compilation_cache
compilation_cache.FEWEST_SECONDS = 0.0
compilation_cache.keep_compiled({str(tmp_path / "first")!r})
jax.jit(lambda x: x * 2)(1.0)
import shutil
shutil.rmtree({str(tmp_path / "first")!r})
compilation_cache.keep_compiled({str(tmp_path / "second")!r})
jax.jit(lambda x: x * 3)(1.0)
compilation_cache.keep_compiled({str(tmp_path / "third")!r})
jax.jit(lambda x: x * 4)(1.0)
"""
    environment = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    words = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(words, env=environment, check=True, timeout=60)
    assert [path.name for path in tmp_path.iterdir()] == ["second"], "the first run's folder was deleted"
    assert len(list((tmp_path / "second" / "compiled").iterdir())) >= 2


def test_a_program_that_was_cut_while_it_was_written_is_compiled_again(tmp_path):
    """JAX warned of it at every later start, and never wrote it anew."""
    code = f"""
import jax
from crate_jax.distributed import compilation_cache
compilation_cache.FEWEST_SECONDS = 0.0
compilation_cache.keep_compiled({str(tmp_path)!r})
jax.jit(lambda x: x * 2)(1.0)
"""
    environment = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    words = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(words, env=environment, check=True, timeout=60)
    programs = list((tmp_path / "compiled").glob("*-cache"))
    for number, path in enumerate(programs):
        path.write_bytes(path.read_bytes()[: number * 40])  # a disk was full, or the machine went away
    subprocess.run(words, env=environment, check=True, timeout=60)
    assert min(path.stat().st_size for path in programs) > 500


def test_a_program_that_cannot_be_read_or_removed_stops_no_command(tmp_path, monkeypatch):
    """Someone else's run can be evaluated though it holds a program that was cut off."""
    for name in ("a-cache", "b-cache"):
        (tmp_path / name).write_bytes(b"x\x9c")
    (tmp_path / "folder-cache").mkdir()
    monkeypatch.setattr(os, "remove", lambda *_, **__: os.rmdir("/nowhere"))
    compilation_cache._remove_cut(epath.Path(tmp_path))
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 3
    compilation_cache._remove_cut(epath.Path(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["folder-cache"]


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
