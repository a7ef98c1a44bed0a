"""Segmentation that nobody trained (Yu et al. 2023, arXiv 2308.16271): foreground masks from a layer's tokens.

    attention   the patches that hold `MASS` of the class token's attention, averaged over the subspaces (DINO's rule)
    pca         the first principal component of the codes (a ViT's keys) over all images, cut by Otsu's threshold
    maskcut     normalised cut of each image's graph of similar codes (Wang et al. 2023, arXiv 2301.11320)

Images are composites: digits pasted over photographs, so the masks are exact. The layer is chosen on one half of the
composites and measured on the other. `everything` and `best possible` say what a mask of patches can score at all.
"""

import jax
import numpy as np

from crate_jax.analysis.attention_maps import layer_codes
from crate_jax.analysis.layerwise import attention_weights
from crate_jax.analysis.principal_components import foreground
from crate_jax.data.picture import RESAMPLING, decoded
from crate_jax.data.sources import open_source
from crate_jax.errors import check_whole
from crate_jax.evaluation.results import Result
from crate_jax.evaluation.scatter import principal_components
from crate_jax.figures import picture_grid
from crate_jax.models.trace import trace
from crate_jax.operators.patches import grid_of, image_shape
from crate_jax.training.objective import normalise

METHODS = ("attention", "pca", "maskcut")
MASS = 0.6  # of the attention
SIMILAR = 0.15  # cosine above which two patches are joined
UNJOINED = 1e-5  # weight of the others, so that the graph is connected
SHOWN = 6
MOST = 1000  # composites: as many digits as there are
BATCH = 32


def composites(count, shape, channels, seed=0):
    """Digits over photographs.

    Args:
        count: how many.
        shape: (height, width), pixels.
        channels: 1 or 3.
        seed: of crops, digits, places and colours.

    Returns:
        (images_BxHxWxC uint8, mask_BxHxW bool: the digit).
    """
    random, (height, width) = np.random.default_rng(seed), shape
    whole = open_source("embedded_photographs", "whole")
    photographs = [decoded(one.image, channels) for one in whole.read(np.arange(whole.num_examples))]
    digits = open_source("embedded_digits", "test")
    chosen = digits.read(np.sort(random.permutation(digits.num_examples)[:count]))
    images, masks = np.empty((count, height, width, channels), np.uint8), np.empty((count, height, width), bool)
    for number, example in enumerate(chosen):
        photograph = photographs[random.integers(len(photographs))]
        left, top = (
            int(random.integers(max(1, a - b + 1))) for a, b in zip(photograph.size, (width, height), strict=True)
        )
        crop = np.asarray(photograph.crop((left, top, left + width, top + height)), np.float32).reshape(
            height, width, -1
        )
        side = int(random.uniform(0.6, 0.9) * min(shape))
        digit = decoded(example.image, 1).resize((side, side), RESAMPLING["bilinear"])
        x, y = int(random.integers(width - side + 1)), int(random.integers(height - side + 1))
        alpha = np.zeros((height, width, 1), np.float32)
        alpha[y : y + side, x : x + side, 0] = np.asarray(digit, np.float32) / 255
        colour = random.integers(0, 256, channels)
        images[number] = np.round(alpha * colour + (1 - alpha) * crop)
        masks[number] = alpha[..., 0] > 0.5
    return images, masks


def attention_masks(attention_BxN):
    """True for the fewest patches that hold `MASS` of the attention."""
    order_BxN = np.argsort(-attention_BxN, 1, kind="stable")
    ordered_BxN = np.take_along_axis(attention_BxN, order_BxN, 1)
    before_BxN = np.cumsum(ordered_BxN, 1) - ordered_BxN
    mask_BxN = np.zeros(attention_BxN.shape, bool)
    np.put_along_axis(mask_BxN, order_BxN, before_BxN < MASS * ordered_BxN.sum(1, keepdims=True), 1)
    return mask_BxN


def pca_masks(codes_BxNxD, grid):
    """Foreground by the first principal component over all images."""
    scores, _ = principal_components(codes_BxNxD.reshape(-1, codes_BxNxD.shape[-1]), 1)
    return foreground(scores.reshape(len(codes_BxNxD), *grid)).reshape(len(codes_BxNxD), -1)


def maskcut_mask(codes_NxD, grid):
    """One cut of an image's patches: (D - W) v = value D v, the second smallest, cut at its mean.

    The foreground is the side of the largest entry; the other one, if that side has most of the corners.
    """
    from scipy.linalg import eigh

    unit = codes_NxD / np.maximum(np.linalg.norm(codes_NxD, axis=1, keepdims=True), 1e-12)
    weight_NxN = np.where(unit @ unit.T > SIMILAR, 1.0, UNJOINED)
    degree_NxN = np.diag(weight_NxN.sum(1))
    _, vectors = eigh(degree_NxN - weight_NxN, degree_NxN, subset_by_index=[1, 1])
    mask_N = vectors[:, 0] > vectors[:, 0].mean()
    if not mask_N[np.argmax(np.abs(vectors[:, 0]))]:
        mask_N = ~mask_N
    corners = mask_N.reshape(grid)[np.ix_([0, -1], [0, -1])]
    return ~mask_N if corners.sum() > 2 else mask_N


def layer_masks(model, params, images_BxHxWxC):
    """Masks of every encoder layer by every method: {(method, layer): BxN bool}.

    Args:
        model, params: with attention.
        images_BxHxWxC: normalised.

    Raises:
        UserError: a network without attention.
    """
    grid = grid_of(images_BxHxWxC.shape[1:3], model.patch_size)

    @jax.jit
    def look(images_BxHxWxC):
        layers = trace(model, params, images_BxHxWxC)[1]
        names = [name for name in layers if name.startswith("encoder")]
        attention = {name: attention_weights(model, name, layers[name])[:, :, 0, 1:].mean(1) for name in names}
        return attention, {name: layer_codes(layers, name)[:, 1:].astype("float32") for name in names}

    parts = [jax.device_get(look(images_BxHxWxC[i : i + BATCH])) for i in range(0, len(images_BxHxWxC), BATCH)]
    masks = {}
    for name in parts[0][0]:
        attention_BxN, codes_BxNxD = (np.concatenate([part[kind][name] for part in parts]) for kind in (0, 1))
        masks["attention", name] = attention_masks(attention_BxN)
        masks["pca", name] = pca_masks(codes_BxNxD, grid)
        masks["maskcut", name] = np.stack([maskcut_mask(codes_NxD, grid) for codes_NxD in codes_BxNxD])
    return masks


def in_pixels(mask_BxN, grid, patch):
    """Masks of patches as masks of pixels, BxHxW."""
    mask_BxRxC = np.asarray(mask_BxN).reshape(-1, *grid)
    return mask_BxRxC.repeat(patch, 1).repeat(patch, 2)


def iou(found_BxHxW, mask_BxHxW):
    """Intersection over union of each image's foreground."""
    both = (found_BxHxW & mask_BxHxW).sum((1, 2))
    return both / np.maximum((found_BxHxW | mask_BxHxW).sum((1, 2)), 1)


def segment(subject, *, count=128, seed=0):
    """Measures foreground masks on composites, of the network and of the same one untrained.

    Args:
        subject: a `Subject`.
        count: composites; the first half chooses the layer, the second is measured.
        seed: of the composites.

    Returns:
        A `Result`: `miou` by method with `layer` and a 95 % interval (bootstrap over images).

    Raises:
        UserError: a network without attention, or fewer than 4 composites.
    """
    check_whole("--limit", count, 4, MOST)
    check_whole("seed", seed, 0)
    model = subject.model
    shape, grid, patch = image_shape(model.image_size), model.grid, model.patch_size
    images, mask_BxHxW = composites(count, shape, model.channels, seed)
    normalised, half = np.asarray(normalise(images, *subject.statistics)), count // 2
    covered_BxN = mask_BxHxW.reshape(count, grid[0], patch, grid[1], patch).mean((2, 4)).reshape(count, -1)
    numbers, shown, layers = {}, {}, []
    for who, params in (("network", subject.params), ("untrained", subject.untrained().params)):
        masks = layer_masks(model, params, normalised)
        scores = {key: iou(in_pixels(found, grid, patch), mask_BxHxW) for key, found in masks.items()}
        layers += [{"network": who, "method": m, "layer": n, "miou": float(s.mean())} for (m, n), s in scores.items()]
        numbers[who] = {}
        for method in METHODS:
            best = max((key for key in scores if key[0] == method), key=lambda key: scores[key][:half].mean())
            numbers[who][method] = {"layer": best[1]} | mean_and_interval(scores[best][half:])
            shown[who, method] = in_pixels(masks[best], grid, patch)
    for name, masks_BxN in (("everything", covered_BxN >= 0), ("best possible", covered_BxN > 0.3)):
        numbers[name] = mean_and_interval(iou(in_pixels(masks_BxN, grid, patch), mask_BxHxW)[half:])
    data = {"name": "digits over photographs", "split": f"seed {seed}", "fingerprint": None, "examples": count - half}
    results = {"miou": numbers, "layers": layers} | subject.stamp(data=data)

    def draw():
        rows = []
        for place in range(half, min(half + SHOWN, count)):
            found = [shown["network", method][place, ..., None].astype(float) for method in METHODS]
            rows.append([images[place] / 255, mask_BxHxW[place, ..., None].astype(float), *found])
        says = "; ".join(f"{method} {numbers['network'][method]['mean']:.2f}" for method in METHODS)
        return picture_grid(
            rows, columns=["image", "mask", *METHODS], side=1.4, caption=f"mean intersection over union: {says}"
        )

    return Result("segmentation", results, {"layers": layers}, {"segmentation": draw})


def mean_and_interval(values, draws=2000):
    """{"mean", "interval"}: the central 95 % of means over images drawn with replacement."""
    random = np.random.RandomState(0)
    means = values[random.randint(0, len(values), (draws, len(values)))].mean(1)
    return {"mean": float(values.mean()), "interval": [float(one) for one in np.percentile(means, [2.5, 97.5])]}
