"""Keeps out of the terminal what libraries print that means nothing to a person who trains."""

import logging
import os
import sys

from crate_jax.distributed.devices import tpu_chips

LIBRARIES = ("absl", "orbax", "jax", "tensorflow", "matplotlib", "grain")
# libtpu, where it is installed and there is no TPU, complains of a machine it cannot ask about; any answer will do
NO_TPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "localhost"}

# of a worker process that was killed: what removes its shared memory says so after the last line
LEAKED = "ignore::UserWarning:multiprocessing.resource_tracker"


def quiet_libraries():
    """Logs of libraries from warnings on, and no messages about a TPU that is not there. Before jax is first used."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("gcsfs", "fsspec"):  # they log with a trace what they then raise, too
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not tpu_chips():
        for name, value in NO_TPU.items():
            os.environ.setdefault(name, value)
    if LEAKED not in sys.warnoptions:
        sys.warnoptions.append(LEAKED)  # its process is started with these
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _without_callbacks


def _without_callbacks(kind, error, trace):
    """Python's own hook, without what TensorStore prints for each array still to be written when another one failed."""
    if kind is not RuntimeError or str(error) != "Event loop is closed":
        sys.__excepthook__(kind, error, trace)
