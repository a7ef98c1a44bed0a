"""One simulated device per core, where there is nothing but a CPU.

XLA's CPU backend leaves a second core partly idle in the backward pass of a small network. Splitting the batch over as
many simulated devices as there are cores keeps them busy: on two cores one quickstart step takes 21.5 ms instead
of 23 to 31, with all tokens in the encoder 35 instead of 41.
"""

import os

from crate_jax.cores import available_cores

_FLAG = "--xla_force_host_platform_device_count"
_FEWEST_IMAGES = 8  # a device; with fewer, the devices' overhead outweighs the gain


def num_devices(batch_size, cores):
    """How many devices to simulate: the most that divide the batch, one a core, at least eight images each."""
    fits = [n for n in range(1, cores + 1) if batch_size % n == 0 and batch_size // n >= _FEWEST_IMAGES]
    return max(fits, default=1)


def use_all_cores(config):
    """Tells XLA how many CPU devices to simulate; must come before jax is first used. Accelerators do not notice.

    Nothing is changed where XLA_FLAGS already says how many, or where the config lays out a mesh of its own.
    """
    mesh, flags = config.mesh, os.environ.get("XLA_FLAGS", "")
    if _FLAG in flags or (mesh.data, mesh.fsdp, mesh.tensor, mesh.dcn_data or 1) != (-1, 1, 1, 1):
        return
    count = num_devices(config.batch_size // config.optimizer.accumulate, len(available_cores()))
    if count > 1:
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}={count}".strip()
