"""CRATE-MAE-L on ImageNet-1K, the book's recipe: 800 epochs, batch 4096, AdamW.

    crate-jax pretrain --config=imagenet_large --workdir=gs://BUCKET/large --config.data.data_dir=gs://BUCKET/tfds

Meant for a pod; `crate-jax compile --config=imagenet_large --topology=v5e:16x16` says what it takes. The base learning
rate of 3e-5 is taken to be before MAE's rule (rate * batch / 256); the source does not say.
"""

from crate_jax.config import default_config


def get_config():
    """The config."""
    config = default_config()
    config.total_epochs = 800
    config.batch_size = 4096
    config.log_every_steps = 100
    config.measure_every_steps = 1000

    config.model.name = "crate_mae_large"
    config.model.dtype = "bfloat16"
    config.model.mask_ratio = 0.75
    config.model.scan_layers = True
    config.model.remat = "names"

    config.data.name = "imagenet2012"

    config.optimizer.learning_rate = 3e-5 * config.batch_size / 256
    config.optimizer.warmup_epochs = 40
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0

    config.checkpoint.every_steps = 1000
    config.checkpoint.keep_every_steps = 50000
    return config
