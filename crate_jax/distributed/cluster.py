"""Is this process one of several? Read from what the scheduler left in the environment, before jax is first used.

    local pod, or by hand   CRATE_JAX_COORDINATOR=HOST:PORT, CRATE_JAX_PROCESSES=P, CRATE_JAX_PROCESS=0 .. P-1
    SLURM                   srun with more than one task
    TPU in GKE              TPU_WORKER_HOSTNAMES with more than one name, or several slices (MEGASCALE_NUM_SLICES)
    Cloud TPU VM            more than one worker in the metadata server's list

Where and with how many is then found by JAX itself, which knows these clusters; asked on a lone machine it would wait.
"""

import glob
import importlib.util
import os
import urllib.request

from crate_jax.errors import UserError

COORDINATOR, PROCESSES, PROCESS = "CRATE_JAX_COORDINATOR", "CRATE_JAX_PROCESSES", "CRATE_JAX_PROCESS"
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"


def find_cluster(environ=None, tpu_workers=None):
    """What `jax.distributed.initialize` has to be told.

    Args:
        environ: None is the process's own environment.
        tpu_workers: a function that returns how many workers a Cloud TPU has; None asks the metadata server.

    Returns:
        A dictionary of arguments (empty where JAX finds them itself), or None for a process that is alone.

    Raises:
        UserError: a cluster that is described by halves.
    """
    environ = os.environ if environ is None else environ
    named = [name for name in (COORDINATOR, PROCESSES, PROCESS) if environ.get(name)]
    if named:
        return _by_hand(environ, named)
    if _number(environ, "SLURM_STEP_NUM_TASKS") > 1:
        return {}
    if environ.get("JAX_PLATFORMS", "").partition(",")[0] == "cpu":
        return None
    if len(environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1 or _number(environ, "MEGASCALE_NUM_SLICES") > 1:
        return {}
    return {} if (tpu_workers or _tpu_workers)() > 1 else None


_PREFIXES = ("CRATE_JAX_", "SLURM_STEP_", "MEGASCALE_", "TPU_WORKER_", "OMPI_", "JAX_COORDINATOR", "JAX_NUM_PROCESSES")


def without_cluster(environ):
    """An environment without what makes a process one of several: for children that are runs of their own."""
    kept = ("CRATE_JAX_WORKDIR", "CRATE_JAX_PYTHON", "CRATE_JAX_VENV")
    return {name: value for name, value in environ.items() if name in kept or not name.startswith(_PREFIXES)}


def _by_hand(environ, named):
    missing = [name for name in (COORDINATOR, PROCESSES, PROCESS) if name not in named]
    if missing:
        raise UserError(f"{named[0]} is set, but {' and '.join(missing)} not; set all three or none.")
    processes, process = _number(environ, PROCESSES), _number(environ, PROCESS, default=-1)
    if not 0 <= process < processes:
        raise UserError(
            f"{PROCESS}={environ[PROCESS]} is not between 0 and {PROCESSES}={environ[PROCESSES]}, less one."
        )
    if processes == 1:
        return None
    return {
        "coordinator_address": environ[COORDINATOR],
        "num_processes": processes,
        "process_id": process,
        "cluster_detection_method": "deactivate",  # else jax takes what is missing from SLURM or a TPU
    }


def _number(environ, name, default=0):
    try:
        return int(environ.get(name) or default)
    except ValueError:
        raise UserError(f"{name}={environ[name]!r} in the environment is not a whole number.") from None


def _tpu_workers():
    """Workers of the Cloud TPU that this machine belongs to; 1 where it belongs to none."""
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    if not chips or importlib.util.find_spec("libtpu") is None:
        return 1
    request = urllib.request.Request(_METADATA, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return len(answer.read().decode().split(","))
    except OSError:  # no such server: a TPU by other means (Colab, Kaggle)
        return 1
