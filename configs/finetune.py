"""Fine-tuning by the size of the data set, or as the supervised CRATE is fine-tuned on small natural-image data sets.

    crate-jax finetune --workdir=workdirs/digits --labels_per_class=10          small
    crate-jax finetune --workdir=WORKDIR --config=finetune_cifar10

`small` (up to some thousand images; the default): 300 steps of 64 images, AdamW, the head reads the mean of the patches
(the class token is a poor summary of a small network). The same recipe trains from scratch, so it has no layer-wise
decay. `medium` (ten thousand to some hundred thousand images): 50 epochs of batch 256 with MAE's regularisation but
without mixup and CutMix. Both are ours; nothing is published for them. They train on the data set of the pre-training
unless --config.data.name says another.

`cifar10`, `cifar100`, `flowers`, `pets` (Yu et al. 2023, the official README): AdamW 5e-5 and 200 epochs, for flowers
and pets 1e-4 and 400 epochs; weight decay 0.01, batch 256, RandAugment(2, 14). The magnitude of 14 lies on the official
scale to 30; on the scale to 10 here that is 4.7. b2 = 0.999 is AdamW's usual one, the warm-up of 5 epochs is ours. The
recipe is the supervised CRATE's; for CRATE-MAE none was published, nor was its accuracy.
"""

from crate_jax.config import default_config

TRANSFER = {  # data set: (TFDS name, training split, learning rate, epochs)
    "cifar10": ("cifar10", "train", 5e-5, 200),
    "cifar100": ("cifar100", "train", 5e-5, 200),
    "flowers": ("oxford_flowers102", "train+validation", 1e-4, 400),
    "pets": ("oxford_iiit_pet", "train", 1e-4, 400),
}
ARGUMENTS = ("small", "medium", "cifar10", "cifar100", "flowers", "pets")


def get_config(recipe="small"):
    """The config.

    Args:
        recipe: one of ARGUMENTS.
    """
    config = default_config()
    config.optimizer.b2 = 0.999
    {"small": small, "medium": medium}.get(recipe, transfer)(config, recipe)
    return config


def small(config, _):
    """Minutes on two CPU cores."""
    config.total_steps = 300
    config.batch_size = 64
    config.log_every_steps = 50
    config.model.pooling = "mean"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 30
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0
    config.checkpoint.every_steps = 100
    config.checkpoint.keep = 1


def medium(config, _):
    """MAE's fine-tuning, shorter and without mixing."""
    config.total_epochs = 50
    config.batch_size = 256
    config.model.pooling = "mean"
    config.model.drop_path = 0.1
    config.data.label_smoothing = 0.1
    config.optimizer.learning_rate = 5e-4 * config.batch_size / 256
    config.optimizer.warmup_epochs = 5
    config.optimizer.weight_decay = 0.05
    config.optimizer.layer_decay = 0.75
    config.optimizer.clip_norm = 1.0


def transfer(config, recipe):
    """The supervised CRATE's recipe."""
    name, split, learning_rate, epochs = TRANSFER[recipe]
    config.total_epochs = epochs
    config.batch_size = 256
    config.data.name = name
    config.data.train_split = split
    config.data.validation_split = "test"
    config.data.randaugment = 2
    config.data.randaugment_magnitude = 4.7
    config.data.randaugment_std = 0.0
    config.optimizer.learning_rate = learning_rate
    config.optimizer.warmup_epochs = 5
    config.optimizer.weight_decay = 0.01
