"""Devices in words, and the warning about an accelerator that jax does not see."""

import logging
import os
import subprocess
import sys
import types

import jax
import pytest

from crate_jax.distributed import devices, quiet


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (["Tesla T4"], "1 x T4"),
        (["NVIDIA A100-SXM4-40GB"] * 2, "2 x A100-SXM4-40GB"),
        (["TPU v5 lite"] * 8, "8 x TPU v5e"),
        (["TPU v6 lite"], "1 x TPU v6e"),
        (["TPU v4"] * 4, "4 x TPU v4"),
        (["cpu"] * 2, "2 x cpu"),
    ],
)
def test_devices_in_words(kinds, said):
    assert devices.describe_devices([types.SimpleNamespace(device_kind=kind) for kind in kinds]) == said


def machine(folder, *, files=(), vendors=()):
    """A stand-in for /dev and the PCI bus."""
    for name in files:
        path = folder / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for number, vendor in enumerate(vendors):
        path = folder / "bus" / str(number) / "vendor"
        path.parent.mkdir(parents=True)
        path.write_text(f"{vendor}\n")
    return {"dev": str(folder / "dev"), "bus": str(folder / "bus")}


@pytest.mark.parametrize(
    ("files", "vendors", "is_tpu"),
    [
        (["accel0"], [], True),
        (["vfio/0"], ["0x8086", "0x1ae0"], True),
        (["vfio/0"], ["0x10de"], False),  # a graphics card handed to a virtual machine
        ([], ["0x1ae0"], False),
    ],
)
def test_a_tpu_is_told_from_other_devices(tmp_path, files, vendors, is_tpu):
    assert devices.tpu_chips(**machine(tmp_path, files=files, vendors=vendors)) is is_tpu


def test_an_nvidia_card_is_found_by_its_file_or_by_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    dev = machine(tmp_path, files=["null"])["dev"]
    assert not devices.nvidia_card(dev)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: Tesla T4 (UUID: x)'\n")
    program.chmod(0o755)
    assert devices.nvidia_card(dev)
    program.write_text("#!/bin/sh\necho 'no devices'; exit 9\n")
    assert not devices.nvidia_card(dev)
    machine(tmp_path, files=["nvidia0"])
    assert devices.nvidia_card(dev)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert not devices.nvidia_card(dev)


@pytest.mark.parametrize(
    ("card", "tpu", "plugin", "said"),
    [
        (True, False, {"jax-cuda12-plugin": "0.1.2"}, ["jax-cuda12-plugin 0.1.2", f"'jax[cuda12]=={jax.__version__}'"]),
        (True, False, {"jax-cuda13-plugin": jax.__version__}, ["no usable card or driver", "jax[cuda13]"]),
        (True, False, {}, ["plugin is not installed"]),
        (False, True, {}, ["there is no libtpu", f"'jax[tpu]=={jax.__version__}'"]),
        (False, False, {}, []),
    ],
)
def test_the_warning_says_what_is_there_and_what_to_do(card, tpu, plugin, said, monkeypatch, caplog):
    monkeypatch.setattr(devices, "nvidia_card", lambda: card)
    monkeypatch.setattr(devices, "tpu_chips", lambda: tpu)
    monkeypatch.setattr(devices, "_version", plugin.get)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    with caplog.at_level(logging.WARNING):
        devices.warn_of_unused_accelerator()
    assert bool(caplog.text) is bool(said) and all(words in caplog.text for words in said)
    caplog.clear()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    devices.warn_of_unused_accelerator()
    assert not caplog.text


@pytest.mark.skipif(devices.tpu_chips(), reason="there is a TPU")
def test_libtpu_says_nothing_where_there_is_no_tpu():
    pytest.importorskip("libtpu")
    code = "from crate_jax.distributed.quiet import quiet_libraries as q; q(); import jax; print(jax.default_backend())"
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    assert done.stdout == "cpu\n" and "TPU" not in done.stderr


def test_what_quiets_libraries_imports_none():
    code = "import sys; from crate_jax.distributed import quiet; print({'jax', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_callbacks_of_a_checkpoint_that_failed_print_nothing(capsys):
    """On a full disk TensorStore printed a traceback for each further array, 26 of them before the sentence."""
    for words, said in (("Event loop is closed", False), ("something else", True)):
        quiet._without_callbacks(RuntimeError, RuntimeError(words), None)
        assert (words in capsys.readouterr().err) is said


def test_shared_memory_of_a_killed_process_is_removed_without_a_word():
    """The warning stood behind the sentence, and a sweep took it for the reason."""
    code = """
from crate_jax.distributed.quiet import quiet_libraries
quiet_libraries()
quiet_libraries()
from multiprocessing import shared_memory
print(shared_memory.SharedMemory(create=True, size=1).name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert not done.stderr and not os.path.exists(f"/dev/shm/{done.stdout.strip()}")
