"""ViT-MAE-B on ImageNet-1K by Meta's recipe (He et al. 2022), the baseline: 1,600 epochs, batch 4096.

    crate-jax pretrain --config=vit_mae_base --workdir=gs://BUCKET/vit_mae_base
    crate-jax finetune --config=probe_mae --workdir=gs://BUCKET/vit_mae_base

Published: linear probe 68.0 % after 1,600 epochs (not reproduced here).
"""

from crate_jax.config import default_config


def get_config():
    """The config."""
    config = default_config()
    config.total_epochs = 1600
    config.batch_size = 4096
    config.norm_pix_loss = True
    config.log_every_steps = 100

    config.model.name = "vit_mae_base"
    config.model.dtype = "bfloat16"

    config.data.name = "imagenet2012"

    config.optimizer.learning_rate = 1.5e-4 * config.batch_size / 256
    config.optimizer.warmup_epochs = 40
    config.optimizer.weight_decay = 0.05

    config.checkpoint.every_steps = 1000
    config.checkpoint.keep_every_steps = 50000
    return config
