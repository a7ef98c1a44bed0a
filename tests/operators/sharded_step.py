"""Loss and gradients of a layer by a kernel on meshes, beside plain XLA: for a process that has two devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from crate_jax.distributed.sharding import RULES


def same_on_meshes(plain, fast, z, meshes):
    """Asserts that a layer is on every mesh what it is by plain XLA on one device.

    Args:
        plain, fast: the layer by plain XLA and by the kernel.
        z: B x N x D.
        meshes: pairs of a shape (data, fsdp, tensor) and texts that the traced program holds.
    """
    params = nn.meta.unbox(jax.jit(plain.init)(jax.random.key(0), z))

    def loss(model, params, z):
        return jnp.sum(jnp.sin(model.apply(params, z)))

    wanted = jax.jit(jax.value_and_grad(lambda params, z: loss(plain, params, z)))(params, z)
    for shape, texts in meshes:
        mesh = jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)

        def on_mesh(params, z, mesh=mesh):
            with nn.logical_axis_rules(RULES), jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return loss(fast, params, z)

        step = jax.value_and_grad(on_mesh)
        trace = str(jax.make_jaxpr(step)(params, z))
        assert all(text in trace for text in texts), trace
        placed = jax.device_put((params, z), NamedSharding(mesh, PartitionSpec()))
        got = jax.jit(step)(*placed)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), wanted, got)
