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
        "names": keep.save_from_both_policies(keep.dots_saveable, keep.save_only_these_names("attention", "product")),
    }[remat]


def run_layers(owner, names, layer, z_BxNxD, *, scan, remat, keep=None):
    """Applies the submodules `names` of `owner` one after the other.

    Args:
        owner: a bound module that holds a submodule for each name.
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
    by_layer = [nn.meta.unbox(owner.variables["params"][name]) for name in names]
    if not scan:
        for index, params in enumerate(by_layer):
            z_BxNxD = apply(z_BxNxD, params, *(() if keep is None else (keep[index],)))
        return z_BxNxD
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *by_layer)
    by_step = (stacked,) if keep is None else (stacked, keep)
    return jax.lax.scan(lambda z, step: (apply(z, *step), None), z_BxNxD, by_step)[0]
