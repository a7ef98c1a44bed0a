"""Masked completion as structured diffusion: the masked image on its way through the network.

The theory: each encoder layer denoises tokens towards the subspaces, so the tokens of a masked image should come closer
to those of the whole image, layer by layer; the decoder is the same diffusion reversed, and should add the detail
again. To see tokens as pixels they are put through the final norm and head, which were trained for the last layer's
tokens only: an approximation, the rougher the further from the end.

Iterative completion is the same idea over several passes: each pass fills in the patches that are most certain (that
change least when some of what is visible is hidden as well), and the next pass sees them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.analysis.inverse import states
from crate_jax.operators.losses import patch_mse
from crate_jax.operators.masking import mask_from_noise, visible_first
from crate_jax.operators.normalisation import layer_norm, unit_length
from crate_jax.operators.patches import grid_of, patchify, unpatchify


def head_pixels(model, params, grid, tokens_BxTxD):
    """What the network would answer if these were its last tokens: final norm and head, class token dropped.

    Returns:
        prediction_BxNxF.
    """
    norm = params["decoder_norm"]
    if model.positions == "subtracted":
        tokens_BxTxD = tokens_BxTxD - model.resized_positions(tokens_BxTxD.shape[-1], grid)
    y_BxNxD = layer_norm(tokens_BxTxD[:, 1:].astype(jnp.float32), norm["scale"], norm["bias"], epsilon=1e-6)
    return jnp.matmul(y_BxNxD, params["head_kernel"], precision="highest") + params["head_bias"]


def _relative(masked_SxBxTxD, whole_SxBxTxD, where_BxT):
    """||masked - whole||^2 / ||whole||^2 over the tokens chosen, both scaled to unit length: SxB."""
    distance_SxBxT = jnp.sum(jnp.square(unit_length(masked_SxBxTxD) - unit_length(whole_SxBxTxD)), -1)
    return jnp.sum(distance_SxBxT * where_BxT, -1) / jnp.maximum(jnp.sum(where_BxT, -1), 1)


@functools.partial(jax.jit, static_argnames=("model", "norm_pix"))
def along_depth(model, params, images_BxHxWxC, mask_BxN, norm_pix=False):
    """The masked image's tokens beside the whole image's, state by state, and their projection to pixels.

    Args:
        model: a masked autoencoder whose decoder has its encoder's width.
        params: its parameters.
        images_BxHxWxC: normalised.
        mask_BxN: 1 where removed.
        norm_pix: the network predicts standardised patches.

    Returns:
        A dictionary. By state of the encoder (I of them) and the decoder (J): `encoder_removed_IxB`,
        `encoder_visible_IxB`, `decoder_removed_JxB`, `decoder_visible_JxB`, squared distances between unit tokens (2 is
        orthogonal; the encoder's `removed` is missing where it does not see removed patches, mask_mode "drop"), and
        `error_JxB`, `encoder_error_IxB`: squared error of the projection on removed patches; `decoder_pixels_JxBxNxF`,
        `encoder_pixels_IxBxNxF`: the projections.
    """
    masked_z, masked_y = states(model, params, images_BxHxWxC, mask_BxN)
    whole_z, whole_y = states(model, params, images_BxHxWxC)
    removed_BxT = jnp.pad(mask_BxN, ((0, 0), (1, 0)))
    visible_BxT = 1 - removed_BxT.at[:, 0].set(1)

    def error(prediction_BxNxF):
        error_BxN = patch_mse(images_BxHxWxC, prediction_BxNxF, model.patch_size, norm_pix)
        return jnp.sum(error_BxN * mask_BxN, -1) / jnp.sum(mask_BxN, -1)

    project = functools.partial(head_pixels, model, params, grid_of(images_BxHxWxC.shape[1:3], model.patch_size))
    decoder_pixels = jax.lax.map(project, masked_y)
    found = {
        "decoder_removed_JxB": _relative(masked_y, whole_y, removed_BxT),
        "decoder_visible_JxB": _relative(masked_y, whole_y, visible_BxT),
        "decoder_pixels_JxBxNxF": decoder_pixels,
        "error_JxB": jax.lax.map(error, decoder_pixels),
    }
    if masked_z.shape == whole_z.shape:
        encoder_pixels = jax.lax.map(project, masked_z)
        return found | {
            "encoder_removed_IxB": _relative(masked_z, whole_z, removed_BxT),
            "encoder_visible_IxB": _relative(masked_z, whole_z, visible_BxT),
            "encoder_pixels_IxBxNxF": encoder_pixels,
            "encoder_error_IxB": jax.lax.map(error, encoder_pixels),
        }
    place_BxV = visible_first(mask_BxN, masked_z.shape[2] - 1)
    seen_IxBxVxD = jnp.take_along_axis(whole_z[:, :, 1:], place_BxV[None, ..., None], 2)
    return found | {"encoder_visible_IxB": _relative(masked_z[:, :, 1:], seen_IxBxVxD, jnp.ones(place_BxV.shape))}


@functools.partial(jax.jit, static_argnames=("model", "visible"))
def predict(model, params, patches_BxNxF, mask_BxN, visible, images_BxHxWxC):
    """The prediction for images whose patches are `patches_BxNxF`, with exactly `visible` of them seen."""
    grid = grid_of(images_BxHxWxC.shape[1:3], model.patch_size)
    seen = unpatchify(patches_BxNxF, model.patch_size, grid=grid).astype(images_BxHxWxC.dtype)
    model = model.clone(mask_ratio=1 - (visible + 0.5) / mask_BxN.shape[1])  # int(N (1 - ratio)) is then `visible`
    return model.apply({"params": params}, seen, mask_BxN).prediction_BxNxF.astype(jnp.float32)


def iterative_completion(model, params, images_BxHxWxC, mask_BxN, *, passes=3, votes=3, key=None, order="certain"):
    """Completes images in several passes; each makes some removed patches visible to the next.

    Args:
        model: a masked autoencoder that predicts plain pixels (not standardised patches).
        params: its parameters.
        images_BxHxWxC: normalised.
        mask_BxN: 1 where removed; the same number in each row.
        passes: how many; as many patches are filled in each.
        votes: predictions with some of the visible patches hidden as well (as many stay as were visible a pass
            earlier; in the first pass two thirds), whose spread is the uncertainty.
        key: a PRNG key, of what is hidden.
        order: "certain" fills the patches of least spread first, "random" any: the baseline that tells whether
            certainty is what helps.

    Returns:
        A dictionary: `one_pass_BxNxF` and `iterative_BxNxF` (predictions of removed patches, visible ones pasted),
        `one_pass_error_B` and `iterative_error_B` (squared error of the removed patches), `after_pass_PxB` (the error
        if the rest were filled in after that pass), `filled_BxN` (pass that filled a patch; 0: visible from the
        beginning).
    """
    key = jax.random.key(0) if key is None else key
    target = patchify(jnp.asarray(images_BxHxWxC, jnp.float32), model.patch_size)
    mask0 = mask = jnp.asarray(mask_BxN, jnp.float32)
    count = int(mask_BxN[0].sum())
    removed = jnp.maximum(jnp.sum(mask0, -1), 1)
    known = target * (1 - mask0[..., None])
    filled, errors = np.zeros(mask.shape, np.int32), []
    one_pass = None
    earlier = max(1, (mask.shape[1] - count) * 2 // 3)  # sizes that occur anyway: with "drop" each is a compilation

    def error(patches):
        return jnp.sum(jnp.mean(jnp.square(patches - target), -1) * mask0, -1) / removed

    for number in range(passes):
        visible = mask.shape[1] - int(mask[0].sum())
        prediction = predict(model, params, known, mask, visible, images_BxHxWxC)
        answer = jnp.where(mask[..., None] > 0, prediction, known)
        one_pass = answer if one_pass is None else one_pass
        errors.append(error(answer))
        key, hide, noise = jax.random.split(key, 3)
        if number == passes - 1:
            filled[np.asarray(mask) > 0] = passes
            known = answer
            break
        if order == "certain":
            spread = _spread(model, params, known, mask, earlier, votes, hide, images_BxHxWxC)
        else:
            spread = jax.random.uniform(noise, mask.shape)
        stay = count - round(count * (number + 1) / passes)  # removed patches that are left after this pass
        earlier = visible
        rank = jnp.where(mask > 0, spread, -jnp.inf)
        after = mask_from_noise(rank, mask.shape[1] - stay)
        filled[np.asarray(mask * (1 - after)) > 0] = number + 1
        known = jnp.where((mask * (1 - after))[..., None] > 0, prediction, known)
        mask = after
    return {
        "one_pass_BxNxF": np.asarray(one_pass), "iterative_BxNxF": np.asarray(known),
        "one_pass_error_B": np.asarray(errors[0]), "iterative_error_B": np.asarray(error(known)),
        "after_pass_PxB": np.stack([np.asarray(e) for e in errors]), "filled_BxN": filled,
    }  # fmt: skip


def _spread(model, params, known, mask, visible, votes, key, images_BxHxWxC):
    """Variance of each patch's prediction when only `visible` of the visible patches are seen, BxN."""
    predictions = []
    for vote in jax.random.split(key, votes):
        noise = jax.random.uniform(vote, mask.shape) + mask  # removed patches stay removed
        predictions.append(predict(model, params, known, mask_from_noise(noise, visible), visible, images_BxHxWxC))
    return jnp.mean(jnp.var(jnp.stack(predictions), 0), -1)
