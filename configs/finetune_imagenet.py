"""Fine-tuning on ImageNet-1K by MAE's recipe (He et al. 2022): layer-wise decay, mixup 0.8, CutMix 1.0, RandAugment.

    crate-jax finetune --workdir=WORKDIR --config=finetune_imagenet
    crate-jax finetune --workdir=WORKDIR --config=finetune_imagenet:large

`base`: 100 epochs, base rate 5e-4, layer decay 0.65, drop path 0.1. `large` and `huge`: 50 epochs, base rate 1e-3,
layer decay 0.75, drop path 0.2 and 0.3. The batch is 1024. It trains on the data set of the pre-training unless
--config.data.name says another.

For a CRATE-MAE the recipe holds with two differences that follow from the network: there is no residual around ISTA,
so drop path leaves out compression steps only; and a layer's subspaces and dictionary share the layer's rate. Each
image has a mixing weight of its own, where MAE draws once per batch.
Published for ViT-MAE-B: 83.6 % (not reproduced here); for CRATE-MAE nothing was.
"""

from crate_jax.config import default_config

ARGUMENTS = ("base", "large", "huge")


def get_config(size="base"):
    """The config.

    Args:
        size: one of ARGUMENTS.
    """
    config = default_config()
    config.total_epochs = 100 if size == "base" else 50
    config.batch_size = 1024

    config.model.pooling = "mean"
    config.model.drop_path = {"base": 0.1, "large": 0.2, "huge": 0.3}[size]

    config.data.crop_scale = (0.08, 1.0)
    config.data.randaugment = 2
    config.data.randaugment_magnitude = 9.0
    config.data.randaugment_std = 0.5
    config.data.erasing = 0.25
    config.data.mixup = 0.8
    config.data.cutmix = 1.0
    config.data.label_smoothing = 0.1

    config.optimizer.learning_rate = (5e-4 if size == "base" else 1e-3) * config.batch_size / 256
    config.optimizer.warmup_epochs = 5
    config.optimizer.weight_decay = 0.05
    config.optimizer.b2 = 0.999
    config.optimizer.layer_decay = 0.65 if size == "base" else 0.75
    return config
