"""A small CRATE-MAE on real photographs: minutes on two CPU cores.

    crate-jax pretrain --config=quickstart --workdir=workdirs/quickstart

Crops of 32 pixels from seventeen photographs that ship with scikit-image and scikit-learn, patches of 4, width 128,
four encoder and two decoder layers, removed patches dropped before the encoder. Muon trains it: in half the steps it
reconstructs better than AdamW, with features as good (docs/results.md, "The optimizer of the quickstart"). For features
alone, `--config.norm_pix_loss=True` is better (same page); a completion then needs the original's means.
"""

from crate_jax.config import default_config


def get_config():
    """The config."""
    config = default_config()
    config.total_steps = 1500
    config.batch_size = 32
    config.log_every_steps = 50
    config.measure_every_steps = 200

    config.model.name = "crate_mae_tiny"
    config.model.image_size = 32
    config.model.patch_size = 4
    config.model.width = 128
    config.model.num_heads = 4
    config.model.depth = 4
    config.model.decoder_depth = 2
    config.model.mask_mode = "drop"
    config.model.mask_ratio = 0.6

    config.data.name = "embedded_photographs"
    config.data.validation_split = "test"
    config.data.show_split = "whole"
    config.data.show_classes = ("chelsea", "coffee", "rocket", "astronaut")
    config.data.crop_scale = (0.4, 1.0)

    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 150
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0

    config.checkpoint.every_steps = 500
    return config
