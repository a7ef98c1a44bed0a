"""What each of the points that run at once gets of this machine, and that none outlives its sweep."""

import ctypes
import signal
import sys

from crate_jax.distributed.devices import visible_cards, visible_tpu_chips
from crate_jax.errors import UserError

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent():
    """In a child: ends with the sweep, however that ends (Linux); else it would train on beside its successor."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def shares(parallel, kind, count, cores):
    """What each of the points that run at once gets: (environment, cores).

    More points than GPUs share them, each with its part of the memory; a TPU chip cannot be shared.

    Args:
        parallel: points at once.
        kind, count: from `distributed.devices.chips`.
        cores: of the machine, a sorted list.

    Returns:
        A list of `parallel` pairs.

    Raises:
        UserError: fewer TPU chips than points.
    """
    if kind == "tpu" and count < parallel:
        raise UserError(f"--parallel={parallel}: there are {count} chips; each point needs one of its own.")
    each, ids, made = count // parallel, [str(chip) for chip in range(count)], []
    for number in range(parallel):
        mine = cores[number * len(cores) // parallel : (number + 1) * len(cores) // parallel] or cores
        environment = {}
        if parallel > 1 and kind == "cuda":
            cards = visible_cards() or ids
            own = cards[number * each : (number + 1) * each] or [cards[number % count]]
            environment = {"CUDA_VISIBLE_DEVICES": ",".join(own)}
            if not each:
                environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / -(-parallel // count):.3f}"
        elif parallel > 1 and kind == "tpu":
            environment = {
                "TPU_VISIBLE_CHIPS": ",".join((visible_tpu_chips() or ids)[number * each : (number + 1) * each]),
                "TPU_CHIPS_PER_PROCESS_BOUNDS": {1: "1,1,1", 2: "1,2,1", 4: "2,2,1"}.get(each, f"1,{each},1"),
                "TPU_PROCESS_BOUNDS": "1,1,1",
                "TPU_PROCESS_PORT": str(8476 + number),
            }
        made.append((environment, mine))
    return made
