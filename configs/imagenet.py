"""A white-box MAE on ImageNet-1K by the book's recipe: AdamW, 800 epochs of which 40 warm-up, batch 4096, ratio 0.75.

    crate-jax pretrain --config=imagenet_base --workdir=gs://BUCKET/base --config.data.data_dir=gs://BUCKET/tfds
    crate-jax compile --config=imagenet:large --topology=v5e:16x16

Meant for a pod of TPUs; `compile` says whether a size fits and what bounds a step. Parameters and moments of `1b`, a
CRATE-MAE of a billion parameters, take 16 GB, sharded over eight devices (mesh.fsdp); nobody has published a network of
that size. Published (paper; not reproduced here): linear probe on CIFAR-10, CRATE-MAE-S 79.4 %, CRATE-MAE-B 80.9 %.

    crate-jax pretrain --config=imagenet:tost_mae_base --workdir=gs://BUCKET/tost

trains another white-box family by the same recipe, by the network's name: CRATE-alpha, ToST (token statistics), CBSA
(contract and broadcast). They are published as supervised classifiers; as masked autoencoders nothing is.

Where the source is silent, or this differs from it:

    learning rate   3e-5 is taken to be before MAE's rule (rate * batch / 256)
    betas           MAE's (0.9, 0.95); augmentation and mean and std likewise MAE's
    norm_pix_loss   off, the official code's default
    clip_norm       1.0, which neither the book nor MAE has
    dtype           bfloat16 computation, float32 parameters
    1b              removed patches are dropped before the encoder (mask_mode), as in MAE; the official code keeps them
"""

from crate_jax.config import default_config

ARGUMENTS = (
    "tiny", "small", "base", "large", "1b",
    "crate_alpha_mae_small", "crate_alpha_mae_base", "crate_alpha_mae_large",
    "tost_mae_tiny", "tost_mae_small", "tost_mae_base", "tost_mae_large",
    "cbsa_mae_tiny", "cbsa_mae_small", "cbsa_mae_base", "cbsa_mae_large",
)  # fmt: skip


def get_config(size="base"):
    """The config.

    Args:
        size: one of ARGUMENTS: a size of CRATE-MAE, or a network's name.
    """
    config = default_config()
    config.total_epochs = 800
    config.batch_size = 4096
    config.log_every_steps = 100
    config.measure_every_steps = 1000

    config.model.name = size if "_mae_" in size else f"crate_mae_{'giant' if size == '1b' else size}"
    config.model.dtype = "bfloat16"
    config.model.mask_ratio = 0.75
    if size.endswith(("large", "1b")):
        config.model.scan_layers = True
        config.model.remat = "names"
    if size == "1b":
        config.model.mask_mode = "drop"
        config.mesh.fsdp = 8

    config.data.name = "imagenet2012"

    config.optimizer.learning_rate = 3e-5 * config.batch_size / 256
    config.optimizer.warmup_epochs = 40
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0

    config.checkpoint.every_steps = 1000
    config.checkpoint.keep_every_steps = 50000
    return config
