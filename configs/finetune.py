"""Fine-tuning of a small network on its own data set; minutes on two CPU cores. What `finetune` does without --config.

    crate-jax finetune --workdir=workdirs/digits --labels_per_class=10

AdamW, the head reads the mean of the patches (the class token is a poor summary of a small network), the data set's own
augmentation. The same recipe trains from scratch, so it has no layer-wise decay.
"""

from crate_jax.config import default_config


def get_config():
    """The config."""
    config = default_config()
    config.total_steps = 300
    config.batch_size = 64
    config.log_every_steps = 50
    config.model.pooling = "mean"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 30
    config.optimizer.weight_decay = 0.05
    config.optimizer.b2 = 0.999
    config.optimizer.clip_norm = 1.0
    config.checkpoint.every_steps = 100
    config.checkpoint.keep = 1
    return config
