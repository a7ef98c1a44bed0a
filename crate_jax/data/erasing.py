"""Random erasing (Zhong et al. 2017): a rectangle of noise, in a quarter of the pictures of MAE's fine-tuning.

As in timm's "pixel" mode the noise is standard normal in normalised units; here it is put back into bytes, so it is
clipped to what a picture can hold.
"""

import numpy as np

from crate_jax.data.augment import ATTEMPTS, drawn_box

NUMBERS = 1 + 2 * ATTEMPTS + 2  # whether, and those of `drawn_box`
AREA = (0.02, 1 / 3)  # of the picture
RATIO = (0.3, 1 / 0.3)  # height over width


def rectangle(uniform_K, height, width, probability):
    """Where to erase: top, left, bottom, right in pixels; None for nothing, see `erase`."""
    if uniform_K[0] >= probability:
        return None
    return drawn_box(uniform_K[1:], (height, width), AREA, RATIO, (range(height), range(width)))


def erase(image_HxWxC, uniform_K, probability, mean, std, key):
    """Erases in place.

    Args:
        image_HxWxC: uint8, written to.
        uniform_K: NUMBERS numbers in [0, 1).
        probability: of erasing at all.
        mean, std: of the normalisation, pixels in [0, 1], a number per channel, or others that are averaged.
        key: 64-bit word that seeds the noise.
    """
    height, width, channels = image_HxWxC.shape
    place = rectangle(uniform_K, height, width, probability)
    if place is None:
        return
    top, left, bottom, right = place
    noise = np.random.Generator(np.random.Philox(key=int(key))).standard_normal(
        (bottom - top, right - left, channels), np.float32
    )
    scale, offset = (255 * np.float32(of if len(of) == channels else np.mean(of)) for of in (std, mean))
    image_HxWxC[top:bottom, left:right] = np.clip(np.rint(noise * scale + offset), 0, 255).astype(np.uint8)
