"""Random erasing (Zhong et al. 2017): a rectangle of noise, in a quarter of the pictures of MAE's fine-tuning.

As in timm's "pixel" mode the noise is standard normal in normalised units; here it is put back into bytes, so it is
clipped to what a picture can hold.
"""

import math

import numpy as np

ATTEMPTS = 10
NUMBERS = 1 + 2 * ATTEMPTS + 2  # whether; area and ratio of each attempt; two for the place
AREA = (0.02, 1 / 3)  # of the picture
RATIO = (0.3, 1 / 0.3)  # height over width


def rectangle(uniform_K, height, width, probability):
    """Where to erase: top, left, bottom, right in pixels; None for nothing, see `erase`."""
    if uniform_K[0] >= probability:
        return None
    for attempt in range(ATTEMPTS):
        area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * float(uniform_K[1 + attempt]))
        low, high = math.log(RATIO[0]), math.log(RATIO[1])
        ratio = math.exp(low + (high - low) * float(uniform_K[1 + ATTEMPTS + attempt]))
        tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if tall < height and wide < width:
            top = int(uniform_K[-2] * (height - tall + 1))
            left = int(uniform_K[-1] * (width - wide + 1))
            return top, left, top + tall, left + wide
    return None


def erase(image_HxWxC, uniform_K, probability, mean, std, key):
    """Erases in place.

    Args:
        image_HxWxC: uint8, written to.
        uniform_K: NUMBERS numbers in [0, 1).
        probability: of erasing at all.
        mean, std: of the normalisation, pixels in [0, 1], a number per channel, or others that are averaged.
        key: 64-bit word that seeds the noise.
    """
    place = rectangle(uniform_K, *image_HxWxC.shape[:2], probability)
    if place is None:
        return
    top, left, bottom, right = place
    channels = image_HxWxC.shape[2]
    noise = np.random.Generator(np.random.Philox(key=int(key))).standard_normal(
        (bottom - top, right - left, channels), np.float32
    )
    scale, offset = (255 * np.float32(of if len(of) == channels else np.mean(of)) for of in (std, mean))
    image_HxWxC[top:bottom, left:right] = np.clip(np.rint(noise * scale + offset), 0, 255).astype(np.uint8)
