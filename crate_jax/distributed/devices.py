"""What this program computes on, in words, and a warning about an accelerator that is there and not used."""

import collections
import contextlib
import glob
import importlib.metadata
import itertools
import logging
import os
import pathlib
import re
import shutil
import subprocess

logger = logging.getLogger(__name__)

_GOOGLE = "0x1ae0"  # the vendor of a TPU on the PCI bus
_LITE = re.compile(r"^(TPU v\d+) lite$")  # what jax calls a TPU v5e or v6e


def describe_devices(devices=None):
    """Devices as "1 x T4", "8 x TPU v5e", "2 x cpu".

    Args:
        devices: of jax; None is all of this run, over all hosts.
    """
    if devices is None:
        import jax

        devices = jax.devices()
    counts = collections.Counter(_kind(device.device_kind) for device in devices)
    return ", ".join(f"{count} x {kind}" for kind, count in counts.items())


def _kind(name):
    lite = _LITE.match(name)
    return f"{lite[1]}e" if lite else re.sub(r"^(NVIDIA|Tesla) ", "", name)


def warn_of_unused_accelerator():
    """Logs a warning where jax computes on the CPU of a machine that has an accelerator. Starts jax's backend."""
    import jax

    if os.environ.get("JAX_PLATFORMS") or jax.default_backend() != "cpu":
        return
    sentence = _unused_accelerator(jax.__version__)
    if sentence:
        line = "!" * 100
        logger.warning("%s\n%s\n%s", line, sentence, line)


def _unused_accelerator(version):
    """What is there, why jax does not see it, and what to do; None where there is nothing but a CPU."""
    on_purpose = "To compute on the CPU on purpose, set JAX_PLATFORMS=cpu."
    if nvidia_card():
        installed = {name: _version(name) for name in ("jax-cuda12-plugin", "jax-cuda13-plugin")}
        found = [f"{name} {found}" for name, found in installed.items() if found]
        why = f"{found[0]} is installed, which is for another jax" if found else "its CUDA plugin is not installed"
        if found and found[0].endswith(f" {version}"):
            why = f"{found[0]} is installed and finds no usable card or driver"
        extra = "cuda13" if installed["jax-cuda13-plugin"] else "cuda12"
        return (
            f"This machine has an NVIDIA card that jax {version} does not see ({why}): everything runs on the "
            f"CPU, many times slower. Install the plugin of this very version: pip install "
            f"'jax[{extra}]=={version}', then start again (in Colab: Runtime > Restart session). {on_purpose}"
        )
    if tpu_chips():
        library = _version("libtpu")
        why = f"libtpu {library} is installed; another process may hold the TPU" if library else "there is no libtpu"
        return (
            f"This machine has a TPU that jax {version} does not see ({why}): everything runs on the CPU, many "
            f"times slower. Install the library of this version: pip install 'jax[tpu]=={version}', and end "
            f"other programs that use the TPU. {on_purpose}"
        )
    return None


def chips():
    """(kind, count) of this machine's accelerators, found without opening them; ("cpu", 0) where there are none."""
    wanted = {one.strip() for one in os.environ.get("JAX_PLATFORMS", "").split(",")} - {""}
    if (not wanted or "tpu" in wanted) and tpu_chips():
        found = visible_tpu_chips() or glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
        return "tpu", len(found)
    if not wanted or wanted & {"cuda", "gpu"}:
        cards = visible_cards()
        found = glob.glob("/dev/nvidia[0-9]*") if cards is None else cards
        return ("cuda", len(found)) if found else ("cpu", 0)
    return "cpu", 0


def visible_cards():
    """What CUDA_VISIBLE_DEVICES names up to the first that is no card (-1, NoDevFiles), as CUDA does; None: unset."""
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    return list(itertools.takewhile(re.compile(r"\d+|(GPU|MIG)-.+").fullmatch, map(str.strip, text.split(","))))


def visible_tpu_chips():
    """What TPU_VISIBLE_CHIPS (before: TPU_VISIBLE_DEVICES) names, as libtpu reads it; []: all."""
    text = os.environ.get("TPU_VISIBLE_CHIPS") or os.environ.get("TPU_VISIBLE_DEVICES") or ""
    return [one.strip() for one in text.split(",") if one.strip()]


def nvidia_card(dev="/dev"):
    """Whether this machine has an NVIDIA card that this process may use, found without opening it."""
    if visible_cards() == []:
        return False
    if glob.glob(f"{dev}/nvidia[0-9]*"):
        return True
    program = shutil.which("nvidia-smi")  # under WSL there is no such file
    if program is None:
        return False
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=10)
        return listed.returncode == 0 and "GPU " in listed.stdout
    return False


def tpu_chips(dev="/dev", bus="/sys/bus/pci/devices"):
    """Whether this machine has a TPU, found without opening it. Other devices have files in /dev/vfio too."""
    if glob.glob(f"{dev}/accel[0-9]*"):
        return True
    vendors = (pathlib.Path(path) for path in glob.glob(f"{bus}/*/vendor"))
    return bool(glob.glob(f"{dev}/vfio/[0-9]*")) and any(path.read_text().strip() == _GOOGLE for path in vendors)


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
