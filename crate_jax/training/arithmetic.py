"""Arithmetic of an image in the train step of a config: a mean where mask ratios are drawn, less where only a head
learns."""

import numpy as np

from crate_jax.models.flops import flops_per_image, repeated_flops


def mask_ratios(config):
    """The ratios, evenly spaced, that each step draws one of (`masking.ratio`); () where it is `model.mask_ratio`."""
    masking = config.masking
    if masking.ratio is None:
        return ()
    return tuple(np.linspace(*masking.ratio, masking.ratio_levels).tolist())  # both ends as they were given


def config_flops(config, model, *, training=True, repeated=False):
    """FLOPs per image, on average over the steps.

    Args:
        config: of the run.
        model: its network.
        training: forward and backward; else forward alone, as in training (masked).
        repeated: also what the backward pass computes once more (`models.flops.repeated_flops`).
    """
    masked = hasattr(model, "mask_ratio")
    if training and config.finetune.head_only and not masked:  # of the frozen encoder nothing is differentiated
        return flops_per_image(model, training=False) + 2 * model.width * model.num_classes
    models = [model.clone(mask_ratio=ratio) for ratio in mask_ratios(config)] if masked else []
    return np.mean(
        [
            flops_per_image(one, training=training) + (repeated_flops(one) if repeated else 0.0)
            for one in models or [model]
        ]
    ).item()
