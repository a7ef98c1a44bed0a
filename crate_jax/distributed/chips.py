"""Which accelerators this machine has."""

import glob
import os


def chips():
    """(kind, count) of this machine's accelerators, found without opening them; ("cpu", 0) where there are none."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms in ("", "tpu"):
        found = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
        if found:
            return "tpu", len(found)
    if platforms in ("", "cuda", "gpu"):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            ids = [one.strip() for one in visible.split(",")]
            count = next((n for n, one in enumerate(ids) if one in ("", "-1")), len(ids))  # -1 hides it and those after
            return ("cuda", count) if count else ("cpu", 0)
        found = glob.glob("/dev/nvidia[0-9]*")
        if found:
            return "cuda", len(found)
    return "cpu", 0
