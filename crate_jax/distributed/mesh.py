"""The mesh: devices in a grid of data x fsdp x tensor.

    data    the batch is sharded; parameters are replicated
    fsdp    the batch is sharded and the parameters too: each is gathered where a layer needs it
    tensor  heads and dictionary atoms are sharded: a layer's products are shared

One axis may be -1: all devices that are left. With several slices (`mesh.dcn_data`; by default as many as the
devices belong to) the data axis crosses the data-centre network, the others stay inside a slice.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from crate_jax.distributed.jax_settings import check_jax_settings
from crate_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")


def mesh_shape(settings, num_devices, slices=None):
    """Sizes of the mesh's axes.

    Args:
        settings: the config's `mesh`.
        num_devices: over all hosts.
        slices: joined by the data-centre network; None is `mesh.dcn_data`, or 1.

    Returns:
        (data, fsdp, tensor), with slices counted into data.

    Raises:
        UserError: the axes do not multiply to the devices.
    """
    sizes = [settings.data, settings.fsdp, settings.tensor]
    if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(f"mesh.data, mesh.fsdp, mesh.tensor = {sizes}: each is positive, and at most one is -1.")
    slices = slices or settings.dcn_data or 1
    known = slices * int(np.prod([size for size in sizes if size != -1]))
    if num_devices % known or (-1 not in sizes and known != num_devices):
        raise UserError(
            f"mesh.data={sizes[0]}, mesh.fsdp={sizes[1]}, mesh.tensor={sizes[2]}, mesh.dcn_data={slices} do not "
            f"multiply to the {num_devices} devices there are; set one of them to -1."
        )
    sizes = [num_devices // known if size == -1 else size for size in sizes]
    return (sizes[0] * slices, sizes[1], sizes[2])


def make_mesh(settings, devices=None):
    """The mesh of a config.

    Args:
        settings: the config's `mesh`.
        devices: None is all there are.

    Returns:
        A `jax.sharding.Mesh` with axes data, fsdp, tensor, in the order that the hardware's links like.

    Raises:
        UserError: see `mesh_shape` and `jax_settings`.
    """
    check_jax_settings()
    devices = jax.devices() if devices is None else devices
    slices = slices_of(devices)
    if settings.dcn_data not in (None, 1, slices):
        kind = "slices" if devices[0].platform == "tpu" else "processes"
        raise UserError(
            f"mesh.dcn_data={settings.dcn_data}: the devices belong to {slices} {kind}; set it to {slices}."
        )
    if settings.dcn_data is not None or devices[0].platform != "tpu":
        slices = settings.dcn_data or 1  # elsewhere a process may be what the slow network joins, or not
    shape = mesh_shape(settings, len(devices), slices)
    auto = (AxisType.Auto,) * len(AXES)  # logical constraints need it: the default, Explicit, refuses them
    try:
        grid = _grid(shape, slices, devices, split=False)
    except RuntimeError:  # an axis of 8 on a torus of 4 x 4 x 4: it goes along a part of a physical one
        grid = _grid(shape, slices, devices, split=True)
    return Mesh(grid, AXES, axis_types=auto)


def one_at_a_time(mesh):
    """Whether each program on a mesh has to be finished before the next is dispatched.

    Simulated devices share one pool of threads: two programs with collectives under way at once can wait for each other
    without end. One device needs no such care.
    """
    return mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"


def slices_of(devices):
    """How many slices, or where they are no TPUs processes, these devices belong to."""
    attribute = "slice_index" if devices[0].platform == "tpu" else "process_index"
    return len({getattr(device, attribute, 0) for device in devices})


def _grid(shape, slices, devices, *, split):
    """The devices as an array of the mesh's shape; `split` lets an axis take a part of a physical one."""
    from jax.experimental import mesh_utils

    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=split)
    inside = (shape[0] // slices, *shape[1:])
    by_slice = devices[0].platform == "tpu"  # elsewhere a process is what the slow network joins
    return mesh_utils.create_hybrid_device_mesh(
        inside,
        (slices, 1, 1),
        devices=devices,
        process_is_granule=not by_slice,
        allow_split_physical_axes=split,
    )
