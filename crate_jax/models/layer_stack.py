"""A stack of equal layers: unrolled or scanned, recomputed in the backward pass or not; one layout of parameters.

Parameters are named by layer (`encoder_00`, ...), scanned or not, so a checkpoint does not know how it was computed. A
scan takes them stacked, `encoder` in place of `encoder_00` and so on (`stack_layers`), and compiles one layer instead
of all; given layers by name it stacks them itself, at the price of one copy.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

REMAT = ("none", "dots", "full", "names")


def remat_policy(remat):
    """What the forward pass keeps for the backward pass: None is everything that autodiff asks for."""
    keep = jax.checkpoint_policies
    return {
        "dots": keep.dots_saveable,
        "full": keep.nothing_saveable,
        "names": keep.save_from_both_policies(keep.dots_saveable, keep.save_only_these_names("attention", "product")),
    }[remat]


def stacks_of(model):
    """((name of a stack, names of its layers in order), ...) of a network that is scanned; () of any other."""
    stacks = (("encoder", model.encoder_names), ("decoder", getattr(model, "decoder_names", ())))
    return tuple((stack, tuple(names)) for stack, names in stacks if names) if model.scan_layers else ()


def stack_layers(params, stacks, join=jnp.stack):
    """{"encoder_00": .., "encoder_01": .., ..} to {"encoder": .., ..}, each leaf with an axis more, the first.

    Args:
        params: a dictionary with an entry for each layer, all of one structure.
        stacks: from `stacks_of`.
        join: a list of leaves, one a layer, to their stack.
    """
    layers = {name for _, names in stacks for name in names}
    rest = {name: value for name, value in params.items() if name not in layers}
    return rest | {
        stack: jax.tree.map(lambda *leaves: join(leaves), *(params[name] for name in names)) for stack, names in stacks
    }


def unstack_layers(params, stacks, take=lambda leaf, index: leaf[index]):
    """The reverse of `stack_layers`; `take` makes a layer's leaf from the stack's and the number of the layer."""
    rest = {name: value for name, value in params.items() if name not in dict(stacks)}
    return rest | {
        name: jax.tree.map(lambda leaf, index=index: take(leaf, index), params[stack])
        for stack, names in stacks
        for index, name in enumerate(names)
    }


def run_layers(owner, stack, names, layer, z_BxNxD, *, scan, remat, keep=None):
    """Applies the submodules `names` of `owner` one after the other.

    Args:
        owner: a bound module that holds a submodule for each name.
        stack: the name under which their parameters lie where they come stacked.
        names: of the layers, in order; all of one shape.
        layer: an unbound twin of each layer, to be applied to their parameters.
        z_BxNxD: tokens.
        scan: loop over one compiled layer.
        remat: "none", "dots", "full" or "names".
        keep: L x S x B x 1 x 1, what stochastic depth leaves of each layer's S residual branches; None: all.

    Returns:
        Tokens after the last layer.
    """
    plain = owner.is_initializing() or owner.is_mutable_collection("intermediates") or not names
    if plain or (not scan and remat == "none"):
        for index, name in enumerate(names):
            z_BxNxD = getattr(owner, name)(z_BxNxD, *(() if keep is None else (keep[index],)))
        return z_BxNxD

    def apply(z_BxNxD, params, *kept):
        return layer.apply({"params": params}, z_BxNxD, *kept)

    if remat != "none":
        apply = jax.checkpoint(apply, policy=remat_policy(remat), prevent_cse=not scan)
    params = nn.meta.unbox(owner.variables["params"])
    if not scan:
        for index, name in enumerate(names):
            z_BxNxD = apply(z_BxNxD, params[name], *(() if keep is None else (keep[index],)))
        return z_BxNxD
    stacked = params[stack] if stack in params else stack_layers(params, ((stack, names),))[stack]
    by_step = (stacked,) if keep is None else (stacked, keep)
    return jax.lax.scan(lambda z, step: (apply(z, *step), None), z_BxNxD, by_step)[0]
