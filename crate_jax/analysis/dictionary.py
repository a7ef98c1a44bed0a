"""The learned bases: the subspaces U_k and the dictionary D of each layer, and how much of them is used.

spectrum of U_k     singular values: flat is an orthonormal basis, which the theory assumes
overlap             ||Q_j^T Q_k||_F^2 / P between subspaces: 0 if they are orthogonal, P/D if random
step                eta ||D||^2: ISTA is sure to descend below 1
usage               fraction of patches that an atom (a column of D) is active for; 0 is a dead atom
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.analysis.layerwise import heads_of, parameter_of, sparse_codes, subspace_overlap, subspaces_of
from crate_jax.models.trace import trace


def has_sparse_codes(params, layer):
    """Whether a layer codes tokens on a dictionary."""
    return parameter_of(params, layer, "dictionary") is not None


def subspace_geometry(model, params):
    """The subspaces of every layer.

    Args:
        model: a CRATE.
        params: its parameters.

    Returns:
        A dictionary from layer name to `spectrum_KxP` (singular values of each U_k, descending) and `overlap_KxK`.
    """
    found = {}
    for name in [*model.encoder_names, *getattr(model, "decoder_names", [])]:
        if subspaces_of(params, name) is None:
            continue
        subspaces_DxKP, heads = subspaces_of(params, name), heads_of(model, name)
        columns_KxDxP = jnp.swapaxes(subspaces_DxKP.reshape(subspaces_DxKP.shape[0], heads, -1), 0, 1)
        found[name] = {
            "spectrum_KxP": np.linalg.svd(np.asarray(columns_KxDxP, np.float32), compute_uv=False),
            "overlap_KxK": np.asarray(subspace_overlap(subspaces_DxKP, heads)),
        }
    return found


def dictionary_geometry(model, params):
    """The dictionary of every encoder layer: `spectrum_D` (singular values) and `step` (eta ||D||^2), by layer name."""
    found = {}
    for name in model.encoder_names:
        if has_sparse_codes(params, name):
            spectrum = np.linalg.svd(np.asarray(parameter_of(params, name, "dictionary")), compute_uv=False)
            found[name] = {"spectrum_D": spectrum, "step": float(model.eta * spectrum[0] ** 2)}
    return found


@functools.partial(jax.jit, static_argnames=("model", "kept"))
def atom_usage(model, params, images_BxHxWxC, kept=()):
    """How often each atom is active, and where, on whole images.

    Args:
        model, params: the network.
        images_BxHxWxC: normalised.
        kept: indices of the layers whose activations are wanted.

    Returns:
        (active_LxAxB, [activation_NxAxB of each layer in `kept`]), f32: the fraction of an image's patches that an atom
        is active for, and the patches' sparse codes.
    """
    layers = trace(model, params, images_BxHxWxC)[1]
    patches = [jnp.moveaxis(sparse_codes(layers[name])[:, 1:], 0, -1) for name in model.encoder_names]
    active = jnp.stack([jnp.mean((one > 0).astype(jnp.float32), 0) for one in patches])
    return active, [patches[layer].astype(jnp.float32) for layer in kept]


def strongest_patches(activation_NxDxB, atoms, count):
    """The patches that excite each atom most, at most one per image.

    Args:
        activation_NxDxB: of a layer.
        atoms: their indices.
        count: patches wanted.

    Returns:
        (image_AxC, patch_AxC, value_AxC), strongest first; a value of 0 means that no further patch excites it.
    """
    chosen_NxAxB = activation_NxDxB[:, np.asarray(atoms)]
    patch_AxB, value_AxB = chosen_NxAxB.argmax(0), chosen_NxAxB.max(0)
    image_AxC = np.argsort(-value_AxB, 1, kind="stable")[:, :count]
    return image_AxC, np.take_along_axis(patch_AxB, image_AxC, 1), np.take_along_axis(value_AxB, image_AxC, 1)


def atoms_as_pixels(params, atoms):
    """First-layer atoms as patches: the pixels whose embedding is nearest to the atom (least squares).

    An approximation: between embedding and dictionary lie a LayerNorm and a compression step, and D is D wide where a
    patch has F pixels, so of an atom only the part that pixels can reach is shown. For deeper layers it means nothing.

    Args:
        params: of the network.
        atoms: their indices.

    Returns:
        pixels_AxF.
    """
    embedding_FxD = np.asarray(params["embedding_kernel"], np.float64)
    dictionary_DxD = np.asarray(parameter_of(params, "encoder_00", "dictionary"), np.float64)
    return (np.linalg.pinv(embedding_FxD.T) @ dictionary_DxD[:, np.asarray(atoms)]).T


def selective_atoms(usage_DxB, count):
    """The most selective atoms of those in use: those that images excite most unequally.

    Args:
        usage_DxB: `active` of a layer.
        count: how many.

    Returns:
        Their indices, the most selective first; of atoms used on at least 0.2 % of the patches.
    """
    mean_D = usage_DxB.mean(1)
    selective_D = np.where(mean_D >= 0.002, usage_DxB.std(1) / np.maximum(mean_D, 1e-9), -1.0)
    return np.argsort(-selective_D, kind="stable")[: min(count, int((selective_D >= 0).sum()))]
