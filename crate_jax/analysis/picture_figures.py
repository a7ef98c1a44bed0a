"""Figures of images: attention, principal components, atoms, and an image on its way through the network."""

import numpy as np

from crate_jax.analysis.dictionary import atoms_as_pixels
from crate_jax.figures import picture_grid
from crate_jax.operators.patches import patchify, unpatchify
from crate_jax.training.objective import denormalise

HEADS = 8  # shown at most
STATES = 9


def _pixels(images, statistics):
    return np.asarray(denormalise(np.asarray(images), *statistics))


def _heat(map_RxC):
    return map_RxC, {"cmap": "magma", "vmin": 0, "vmax": float(map_RxC.max()) or 1.0}


def attention_by_head(study, statistics):
    """The class token's attention: a row per image, a column per head of the late layer."""
    layer = study.parts["codes_layer"]
    attention, grid = study.parts["attention"][layer], study.parts["grid"]
    pixels = _pixels(study.images[: min(4, len(attention))], statistics)
    heads = range(min(HEADS, attention.shape[1]))
    rows = [[pixels[b]] + [_heat(attention[b, k, 0, 1:].reshape(grid)) for k in heads] for b in range(len(pixels))]
    titles = ["image", *_head_names(study, heads)]
    return picture_grid(
        rows, columns=titles, caption=f"encoder layer {layer}; query: the class token; each map by itself"
    )


def attention_by_layer(study, statistics, image=0):
    """A patch's attention in a first, a middle and a late layer, by head; the query is the most attended patch."""
    grid = study.parts["grid"]
    pixels = _pixels(study.images[image : image + 1], statistics)[0]
    rows, names = [], []
    query = None
    for layer, attention in study.parts["attention"].items():
        query = _query(study, image, grid) if query is None else query
        heads = range(min(HEADS, attention.shape[1]))
        maps = [_heat(attention[image, k, 1 + query, 1:].reshape(grid)) for k in heads]
        rows.append([_marked(pixels, query, grid, study.model.patch_size), *maps])
        names.append(f"layer {layer}")
    titles = ["query", *_head_names(study, heads)]
    return picture_grid(rows, columns=titles, names=names, caption="query: the framed patch; each map by itself")


def _head_names(study, heads):
    return [f"{'subspace' if study.has_subspaces else 'head'} {k}" for k in heads]


def _query(study, image, grid):
    """A patch inside the foreground, as near to the middle as there is."""
    inside = study.parts["colours"]["inside_BxRxC"][image]
    row, column = np.mgrid[: grid[0], : grid[1]]
    distance = (row - grid[0] / 2) ** 2 + (column - grid[1] / 2) ** 2
    return int(np.argmin(np.where(inside if inside.any() else ~inside, distance, np.inf)))


def _marked(pixels, patch, grid, size):
    marked = pixels.copy() if pixels.shape[-1] == 3 else np.repeat(pixels, 3, -1)
    y, x = (size * place for place in divmod(patch, grid[1]))
    edge = max(1, size // 8)
    colour = np.array([1.0, 0.1, 0.1])
    for box in (np.s_[y : y + edge, x : x + size], np.s_[y + size - edge : y + size, x : x + size],
                np.s_[y : y + size, x : x + edge], np.s_[y : y + size, x + size - edge : x + size]):  # fmt: skip
        marked[box] = colour
    return marked


def principal_component_pictures(study, statistics):
    """Principal components of patch codes as colours."""
    found = study.parts["colours"]
    count = len(found["first_BxRxC"])
    rows = [
        list(_pixels(study.images[:count], statistics)),
        [(one, {"cmap": "magma"}) for one in found["first_BxRxC"]],
        [one.astype(float) for one in found["inside_BxRxC"]],
        list(found["rgb_BxRxCx3"]),
        list(found["all_BxRxCx3"]),
    ]
    names = ["image", "1st comp.", "foreground", "its parts", "all patches"]
    return picture_grid(rows, names=names, side=1.0)


def patches_of_atoms(study, statistics, layer):
    """For selective atoms of a layer the patches that excite each most; in the first layer the atom itself as well."""
    atoms, image_AxC, patch_AxC, value_AxC = study.parts["patches_of_atoms"][layer]
    size = study.model.patch_size
    pictures = _pixels(study.images, statistics)
    around = 0 if layer == 0 else 1  # a deep token has seen its neighbours
    padded = np.pad(pictures, ((0, 0), (size * around,) * 2, (size * around,) * 2, (0, 0)), mode="edge")
    columns = study.parts["grid"][1]
    rows, names = [], []
    drawn = atoms_as_pixels(study.params, atoms) if layer == 0 else None
    for a, atom in enumerate(atoms):
        row = []
        if drawn is not None:
            patch = drawn[a] / (np.abs(drawn[a]).max() or 1.0) / 2 + 0.5
            row.append(patch.reshape(size, size, -1))
        for image, patch, value in zip(image_AxC[a], patch_AxC[a], value_AxC[a], strict=True):
            y, x = (size * place for place in divmod(int(patch), columns))
            reach = size * (1 + 2 * around)
            row.append(padded[image, y : y + reach, x : x + reach] if value > 0 else None)
        rows.append(row)
        names.append(f"atom {atom}")
    titles = (["atom"] if drawn is not None else []) + ["strongest", *[""] * (image_AxC.shape[1] - 1)]
    return picture_grid(rows, columns=titles, names=names, side=0.75, caption=f"encoder layer {layer}")


def along_the_network(study, statistics, images=3):
    """The masked image's tokens, state by state, put through the final head."""
    depth, mask = study.parts["depth"], study.parts["mask"]
    size, grid = study.model.patch_size, study.parts["grid"]
    patches = patchify(study.images, size)
    states = []
    if "encoder_pixels_IxBxNxF" in depth:
        states += [(f"Z{i}", x) for i, x in enumerate(depth["encoder_pixels_IxBxNxF"][:-1])]
    states += [(f"Y{j}", x) for j, x in enumerate(depth["decoder_pixels_JxBxNxF"])]
    chosen = np.unique(np.linspace(0, len(states) - 1, min(STATES, len(states))).astype(int))
    rows = []
    for b in range(min(images, depth["decoder_pixels_JxBxNxF"].shape[1])):
        prediction = np.stack([_shown(states[c][1][b], patches[b], study.parts["norm_pix"]) for c in chosen])
        row = [study.images[b], np.where(_mask_pixels(mask[b], size, grid) > 0, 0.0, study.images[b])]
        row += list(np.asarray(unpatchify(prediction, size, grid=grid)))
        rows.append(list(_pixels(np.stack(row), statistics)))
    return picture_grid(rows, columns=["image", "masked", *[states[c][0] for c in chosen]], side=1.05)


def _shown(prediction_NxF, patches_NxF, norm_pix):
    """Pixels to show; standardised predictions get their patch's own mean and deviation."""
    if not norm_pix:
        return prediction_NxF
    patches = np.asarray(patches_NxF)
    return prediction_NxF * patches.std(-1, keepdims=True, ddof=1) + patches.mean(-1, keepdims=True)


def _mask_pixels(mask_N, size, grid):
    each = np.broadcast_to(mask_N[:, None], (len(mask_N), size * size))
    return np.asarray(unpatchify(each[None], size, grid=grid))[0]


def completion_in_passes(study, statistics, images=3):
    """One pass beside several."""
    found, mask = study.parts["iterative"]["certain"], study.parts["mask"]
    size, grid = study.model.patch_size, study.parts["grid"]
    rows = []
    for b in range(min(images, len(found["filled_BxN"]))):
        removed = _mask_pixels(mask[b], size, grid) > 0
        answers = np.asarray(
            unpatchify(np.stack([found["one_pass_BxNxF"][b], found["iterative_BxNxF"][b]]), size, grid=grid)
        )
        stack = np.stack([study.images[b], np.where(removed, 0.0, study.images[b]), *answers])
        order = found["filled_BxN"][b].reshape(grid)
        rows.append([*_pixels(stack, statistics), (order, {"cmap": "viridis", "vmin": 0, "vmax": int(order.max())})])
    passes = int(found["filled_BxN"].max())
    return picture_grid(rows, columns=["image", "masked", "one pass", f"{passes} passes", "filled in pass"], side=1.3)
