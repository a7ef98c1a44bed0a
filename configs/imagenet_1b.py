"""A CRATE-MAE of a billion parameters on ImageNet-1K, the book's recipe: 800 epochs, batch 4096, AdamW.

    crate-jax pretrain --config=imagenet_1b --workdir=gs://BUCKET/1b --config.data.data_dir=gs://BUCKET/tfds

Nobody has published a network of this size; it shows what the mesh is for: parameters, their moments and gradients
are 16 GB, split over eight chips. `crate-jax compile --config=imagenet_1b --topology=v5e:16x16` says what it takes.
"""

from crate_jax.config import default_config


def get_config():
    """The config."""
    config = default_config()
    config.total_epochs = 800
    config.batch_size = 4096
    config.log_every_steps = 100
    config.measure_every_steps = 1000

    config.model.name = "crate_mae_giant"
    config.model.dtype = "bfloat16"
    config.model.mask_mode = "drop"
    config.model.mask_ratio = 0.75
    config.model.scan_layers = True
    config.model.remat = "names"

    config.mesh.fsdp = 8

    config.data.name = "imagenet2012"

    config.optimizer.learning_rate = 3e-5 * config.batch_size / 256
    config.optimizer.warmup_epochs = 40
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0

    config.checkpoint.every_steps = 1000
    config.checkpoint.keep_every_steps = 50000
    return config
