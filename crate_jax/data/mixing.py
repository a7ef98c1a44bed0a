"""Mixup (Zhang et al. 2018), CutMix (Yun et al. 2019) and label smoothing: soft targets for fine-tuning.

How an example is mixed is drawn on the host, from (seed, epoch, index); the mixing itself is done on the device.
Rows 2i and 2i + 1 of the global batch are partners: `paired` gives each row its partner's bytes before the batch is cut
into micro-batches, so accumulation changes nothing, and no pixel leaves a device that holds an even number of rows.
MAE's recipe draws once per batch; here every example has a draw of its own, which depends on nothing but the example.
"""

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.data.randomness import uniforms
from crate_jax.operators.patches import image_shape

MIXING_STREAM = 2  # of the random numbers; see randomness.uniforms
SWITCH = 0.5  # chance of CutMix where both are on


def mixing_plan(seed, epoch_B, index_B, image_size, mixup, cutmix):
    """How each example is mixed with its partner.

    Args:
        seed, epoch_B, index_B: which examples, and how often each was seen before.
        image_size: pixels, or (height, width).
        mixup, cutmix: alpha of the Beta(alpha, alpha) that the weight is drawn from; 0 is off.

    Returns:
        {"mix_weight": float32 B, the share of the example itself; "mix_box": int32 Bx4, top, left, bottom, right of
        what CutMix takes from the partner, all 0 for mixup}.
    """
    from scipy.special import betaincinv  # as in randaugment.py

    which_B, draw_B, row_B, column_B = uniforms(seed, epoch_B, index_B, MIXING_STREAM, 4).T
    cuts_B = which_B < (SWITCH if mixup and cutmix else float(bool(cutmix)))
    alpha_B = np.where(cuts_B, cutmix or 1.0, mixup or 1.0)
    weight_B = betaincinv(alpha_B, alpha_B, draw_B)
    height, width = image_shape(image_size)
    tall_B, wide_B = (np.sqrt(1 - weight_B) * side for side in (height, width))
    top_B, left_B = np.floor(row_B * height) - tall_B // 2, np.floor(column_B * width) - wide_B // 2
    edges_Bx4 = np.stack([top_B, left_B, top_B + tall_B // 1, left_B + wide_B // 1], 1)
    ends_4 = (height, width, height, width)
    box_Bx4 = np.where(cuts_B[:, None], np.clip(edges_Bx4, 0, ends_4), 0).astype(np.int32)
    area_B = (box_Bx4[:, 2] - box_Bx4[:, 0]) * (box_Bx4[:, 3] - box_Bx4[:, 1])
    weight_B = np.where(cuts_B, 1 - area_B / (height * width), weight_B)  # a box cut off by the border takes less
    if not (mixup or cutmix):
        weight_B, box_Bx4 = np.ones_like(weight_B), np.zeros_like(box_Bx4)
    return {"mix_weight": weight_B.astype(np.float32), "mix_box": box_Bx4}


def smoothed(labels_B, num_classes, smoothing=0.0):
    """One-hot targets_BxK (float32), of which the fraction `smoothing` is shared evenly by all K classes."""
    return jax.nn.one_hot(labels_B, num_classes) * (1 - smoothing) + smoothing / num_classes


def paired(batch):
    """The batch with `partner_image` and `partner_label` of each row; the last of an odd batch is its own partner."""
    return batch | {"partner_image": _swapped(batch["image"]), "partner_label": _swapped(batch["label"])}


def _swapped(rows):
    even = len(rows) // 2 * 2
    pairs = rows[:even].reshape(even // 2, 2, *rows.shape[1:])[:, ::-1].reshape(even, *rows.shape[1:])
    return jnp.concatenate([pairs, rows[even:]]) if even < len(rows) else pairs


def mixed(images_BxHxWxC, targets_BxK, partners_BxHxWxC, partner_targets_BxK, weight_B, box_Bx4):
    """Mixes every image and target with its partner's.

    Args:
        images_BxHxWxC, partners_BxHxWxC: float.
        targets_BxK, partner_targets_BxK: float.
        weight_B, box_Bx4: from `mixing_plan`.

    Returns:
        (images_BxHxWxC, targets_BxK), dtypes as they were.
    """
    weight_Bx1 = weight_B[:, None].astype(targets_BxK.dtype)
    rows_H, columns_W = (jnp.arange(side) for side in images_BxHxWxC.shape[1:3])
    in_rows_BxH = (rows_H >= box_Bx4[:, :1]) & (rows_H < box_Bx4[:, 2:3])
    in_columns_BxW = (columns_W >= box_Bx4[:, 1:2]) & (columns_W < box_Bx4[:, 3:4])
    inside_BxHxWx1 = (in_rows_BxH[:, :, None] & in_columns_BxW[:, None, :])[..., None]
    cuts_B = (box_Bx4[:, 2] > box_Bx4[:, 0]) & (box_Bx4[:, 3] > box_Bx4[:, 1])
    share = weight_B[:, None, None, None].astype(images_BxHxWxC.dtype)
    blended = share * images_BxHxWxC + (1 - share) * partners_BxHxWxC
    cut = jnp.where(inside_BxHxWx1, partners_BxHxWxC, images_BxHxWxC)
    # a box that the border cut down to nothing has weight 1, so blending leaves the image alone
    images = jnp.where(cuts_B[:, None, None, None], cut, blended)
    return images, weight_Bx1 * targets_BxK + (1 - weight_Bx1) * partner_targets_BxK
