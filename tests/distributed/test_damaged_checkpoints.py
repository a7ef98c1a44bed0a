"""Checkpoints that were cut off, never finished, or did not find room: the last whole one stands."""

import os
import pathlib
import re
import shutil
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.errors import LOST_HOST, UserError
from crate_jax.training.checkpoint import Checkpoints
from crate_jax.training.state import TrainState
from crate_jax.training.whole_checkpoint import _unreadable_share


def state(step, size=1000):
    params = {"kernel": jax.random.normal(jax.random.key(step), (size,)), "bias": jnp.ones(3)}
    moments = jax.tree.map(jnp.square, params)
    return TrainState(step=jnp.int32(step), params=params, opt_state=moments, ema=None, bad_step=jnp.int32(-1))


def abstract(size=1000):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0, size))


def saved(folder, steps, **options):
    checkpoints = Checkpoints(folder, **options)
    for step in steps:
        checkpoints.save(step, state(step))
    checkpoints.close()
    return Checkpoints(folder, **options)


def cut_in_half(checkpoint):
    biggest = max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(biggest, biggest.stat().st_size // 2)


def test_a_cut_one_is_passed_over_and_set_aside(tmp_path, caplog):
    saved(tmp_path / "c", (1, 2, 3)).close()
    cut_in_half(tmp_path / "c" / "3")
    shutil.copytree(tmp_path / "c" / "2", tmp_path / "c" / "4.orbax-checkpoint-tmp-1")
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    restored = checkpoints.restore_newest(abstract())
    assert int(restored.step) == 2
    np.testing.assert_array_equal(restored.params["kernel"], state(2).params["kernel"])
    assert "checkpoint of step 3 cannot be read" in caplog.text
    assert "checkpoint of step 4 was never finished" in caplog.text
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1", "2", "broken_3"]
    checkpoints.save(3, state(3))  # the step can be saved again
    checkpoints.close()
    assert int(Checkpoints(tmp_path / "c").restore_newest(abstract()).step) == 3


def test_where_none_is_whole_nothing_is_touched(tmp_path):
    saved(tmp_path / "c", (1, 2)).close()
    cut_in_half(tmp_path / "c" / "1")
    cut_in_half(tmp_path / "c" / "2")
    with pytest.raises(UserError, match="none of the checkpoints"):
        Checkpoints(tmp_path / "c").restore_newest(abstract())
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1", "2"]


def test_shares_of_several_hosts_find_the_damage_between_them(tmp_path):
    from etils import epath

    saved(tmp_path / "c", (1,)).close()
    step, items = epath.Path(tmp_path / "c" / "1"), ("params", "progress")
    assert [_unreadable_share(step, items, part, 2) for part in (0, 1)] == [None, None]
    cut_in_half(tmp_path / "c" / "1")
    assert any(_unreadable_share(step, items, part, 2) for part in (0, 1))
    shutil.rmtree(tmp_path / "c" / "1" / "params")
    assert "params has no _METADATA" in _unreadable_share(step, items, 0, 2)


def test_a_host_notices_whichever_file_is_cut(tmp_path):
    """Before it restores, which it would leave alone; or the file does not matter."""
    from etils import epath

    saved(tmp_path / "c", (1,)).close()
    for number, file in enumerate(sorted(path for path in (tmp_path / "c").rglob("*") if path.is_file())):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "c", folder)
        os.truncate(folder / file.relative_to(tmp_path / "c"), file.stat().st_size // 2)
        if not any(_unreadable_share(epath.Path(folder / "1"), ("params", "progress"), part, 2) for part in (0, 1)):
            restored = Checkpoints(folder).restore_newest(abstract())
            np.testing.assert_array_equal(restored.params["kernel"], state(1).params["kernel"], err_msg=str(file))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("not allowed to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_keeps_the_last_checkpoint(small_disk, capfd):
    checkpoints = saved(small_disk / "c", (1,), keep=2)
    checkpoints.save(2, state(2, size=300_000))
    with pytest.raises(
        UserError, match=r"step 2 could not be written to .* \(older .*: No space left on device; the disk is full"
    ) as raised:
        checkpoints.wait()
    assert not hasattr(raised.value, "exit_code"), "permanent: launchers do not run it again"
    assert "Traceback" not in capfd.readouterr().err, "an error that is told in a sentence needs no trace"
    for _ in range(50):  # a new process has none of the threads that may still write here
        again = Checkpoints(small_disk / "c", keep=2)
        assert int(again.restore_newest(abstract()).step) == 1
        left = [path.name for path in pathlib.Path(small_disk / "c").iterdir()]
        if left == ["1"]:
            break
        time.sleep(0.1)
    assert left == ["1"], "room is made for another try"


def test_a_host_lost_while_saving_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    lost = jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: Read error: Connection reset by peer")

    def fails(*_, **__):
        raise lost

    for method in ("save", "wait_until_finished"):
        checkpoints = saved(tmp_path / method, (1,), keep=2)
        with monkeypatch.context() as patched:
            patched.setattr(checkpoints._manager, method, fails)
            with pytest.raises(jax.errors.JaxRuntimeError, match="Gloo AllGather"):
                checkpoints.save(2, state(2))
        checkpoints.close()


def test_a_host_lost_while_reading_is_not_taken_for_a_damaged_checkpoint(tmp_path, monkeypatch, caplog):
    checkpoints = saved(tmp_path / "c", (1, 2), keep=2)

    def fails(*_, **__):
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: Read error: Connection reset by peer")

    monkeypatch.setattr(checkpoints._manager, "restore", fails)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Gloo AllGather"):
        checkpoints.restore_item("params", abstract().params)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Gloo AllGather"):
        checkpoints.restore_newest(abstract())
    assert not caplog.records


@pytest.mark.parametrize(
    "failure", [OSError(5, "Input/output error"), ValueError("UNAVAILABLE: the bucket does not answer")], ids=str
)
def test_storage_that_fails_is_no_damage(tmp_path, monkeypatch, failure):
    """A whole checkpoint was renamed broken_2, and the run went on from the one before."""
    checkpoints = saved(tmp_path / "c", (1, 2), keep=2)

    def fails(*_, **__):
        try:
            raise failure
        except Exception as error:
            raise Exception("Encountered error while reading array index") from error  # Orbax's kind and words

    monkeypatch.setattr(checkpoints._manager, "restore", fails)
    with pytest.raises(UserError, match=rf"c/2 cannot be read now, and is kept: {re.escape(str(failure))}") as raised:
        checkpoints.restore_newest(abstract())
    assert raised.value.exit_code == LOST_HOST  # launchers run it again
    with pytest.raises(UserError, match="c/2 cannot be read now"):
        checkpoints.restore_item("params", abstract().params)

    def raises(*_, **__):
        raise failure

    monkeypatch.setattr("tensorstore.KvStore.open", raises)
    with pytest.raises(UserError, match="cannot be read now"):
        _unreadable_share(checkpoints.folder / "2", ("params",), 0, 1)
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1", "2"]
    assert int(Checkpoints(tmp_path / "c", keep=2).restore_newest(abstract()).step) == 2
