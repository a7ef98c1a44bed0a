"""A stack of equal layers: one array per parameter with a leading layer axis, scanned or unrolled.

`params["encoder"]` and `params["decoder"]` hold every layer's parameters side by side, whichever way the stack is
computed; `layer_params` takes one layer's. With rematerialisation a stack is always scanned: unrolled, XLA may merge
the recomputation with the forward pass and save nothing.
"""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.operators.residuals import NAMED_RESIDUALS

STACKS = ("encoder", "decoder")


def layer_name(stack, index):
    """Such as "encoder_03"; layers are counted from 0."""
    return f"{stack}_{index:02d}"


def layer_names(stack, depth):
    """Names of a stack's layers, first to last."""
    return [layer_name(stack, index) for index in range(depth)]


def layer_params(params, name):
    """The parameters of one layer of a network, by its name, such as "encoder_03"."""
    stack, _, number = name.rpartition("_")
    return jax.tree.map(lambda leaf: leaf[int(number)], params[stack])


def stack_parameters(module, stack, layer, depth, width):
    """The parameters of a stack, which are made while `module` is initialised.

    Args:
        module: a bound module; the stack becomes its parameter of that name.
        stack: "encoder" or "decoder".
        layer: an unbound layer, for tokens of length `width`.

    Returns:
        A tree of arrays with a leading axis of `depth`; their logical name for it is "layers".
    """

    def create(key):
        def one(key):
            return layer.init(key, jnp.zeros((1, 2, width)))["params"]

        boxed = jax.vmap(one)(jax.random.split(key, depth))
        return nn.meta.add_axis(boxed, 0, {nn.meta.PARTITION_NAME: "layers"})

    if not depth:
        return {}
    if module.is_initializing():
        return module.param(stack, create)
    return nn.meta.unbox(module.get_variable("params", stack))


def apply_stack(layer, params, z_BxNxD, *, scan, remat, keep=None, traced=False):
    """Applies a stack's layers one after the other.

    Args:
        layer: an unbound layer.
        params: from `stack_parameters`.
        z_BxNxD: tokens.
        scan: loop over one compiled layer.
        remat: residuals saved for the backward pass: "none" recomputes nothing, "names" all but the named ones
            (`operators.residuals`), "full" everything.
        keep: L x S x B x 1 x 1, stochastic depth's factor of each layer's S residual branches; None: all are kept.
        traced: the layers' intermediate values are wanted.

    Returns:
        (tokens after the last layer, {value name: L x ...}); the second is empty if not `traced`.
    """
    if not params:
        return z_BxNxD, {}

    def one(z_BxNxD, inputs):
        layer_params, *kept = inputs
        if not traced:
            return layer.apply({"params": layer_params}, z_BxNxD, *kept), {}
        z_BxNxD, sown = layer.apply({"params": layer_params}, z_BxNxD, *kept, mutable=["intermediates"])
        flat = flax.traverse_util.flatten_dict(sown["intermediates"])
        return z_BxNxD, {path[-1]: values[0] for path, values in flat.items()}

    inputs = (params,) if keep is None else (params, keep)
    if remat != "none":
        policy = jax.checkpoint_policies.save_only_these_names(*NAMED_RESIDUALS) if remat == "names" else None
        one = jax.checkpoint(one, policy=policy, prevent_cse=False)
    if scan or remat != "none":
        return jax.lax.scan(one, z_BxNxD, inputs)
    seen = []
    for layer_inputs in _slices(inputs):
        z_BxNxD, values = one(z_BxNxD, layer_inputs)
        seen.append(values)
    return z_BxNxD, {name: [values[name] for values in seen] for name in seen[0]}


def _slices(tree):
    """One tree per layer. A single split, whose transpose is a single concatenation of the layers' gradients."""
    leaves, structure = jax.tree.flatten(tree)
    depth = leaves[0].shape[0]
    columns = [jax.lax.split(leaf, (1,) * depth, axis=0) for leaf in leaves]
    return [jax.tree.unflatten(structure, [part[index][0] for part in columns]) for index in range(depth)]
