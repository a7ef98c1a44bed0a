"""A stack of equal layers: unrolled or scanned, recomputed in the backward pass or not; one layout of parameters.

Parameters are named by layer (`encoder_00`, ...), scanned or not, so a checkpoint does not know how it was computed. A
scan stacks them inside the step: one copy of the parameters, in exchange for compiling one layer instead of all.
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
        "names": keep.save_from_both_policies(keep.dots_saveable, keep.save_only_these_names("attention")),
    }[remat]


def run_layers(owner, names, layer, z_BxNxD, *, scan, remat):
    """Applies the submodules `names` of `owner` one after the other.

    Args:
        owner: a bound module that holds a submodule for each name.
        names: of the layers, in order; all of one shape.
        layer: an unbound twin of each layer, to be applied to their parameters.
        z_BxNxD: tokens.
        scan: loop over one compiled layer.
        remat: "none", "dots", "full" or "names".

    Returns:
        Tokens after the last layer.
    """
    plain = owner.is_initializing() or owner.is_mutable_collection("intermediates") or not names
    if plain or (not scan and remat == "none"):
        for name in names:
            z_BxNxD = getattr(owner, name)(z_BxNxD)
        return z_BxNxD

    def apply(z_BxNxD, params):
        return layer.apply({"params": params}, z_BxNxD)

    if remat != "none":
        apply = jax.checkpoint(apply, policy=remat_policy(remat), prevent_cse=not scan)
    by_layer = [nn.meta.unbox(owner.variables["params"][name]) for name in names]
    if not scan:
        for params in by_layer:
            z_BxNxD = apply(z_BxNxD, params)
        return z_BxNxD
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *by_layer)
    return jax.lax.scan(lambda z, params: (apply(z, params), None), z_BxNxD, stacked)[0]
