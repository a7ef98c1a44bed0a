"""Fine-tuning on ImageNet-1K by MAE's recipe for ViT-B (He et al. 2022): 100 epochs, layer decay 0.65, mixup, CutMix.

    crate-jax finetune --workdir=WORKDIR --config=finetune_imagenet

For a CRATE-MAE the recipe holds with two differences that follow from the network: there is no residual around ISTA,
so drop path leaves out compression steps only; and a layer's subspaces and dictionary share the layer's rate.
Published for ViT-MAE-B: 83.6 % (not reproduced here); for CRATE-MAE nothing was.
"""

from crate_jax.config import default_config


def get_config():
    """The config."""
    config = default_config()
    config.total_epochs = 100
    config.batch_size = 1024

    config.model.pooling = "mean"
    config.model.drop_path = 0.1

    config.data.crop_scale = (0.08, 1.0)
    config.data.randaugment = 2
    config.data.randaugment_magnitude = 9.0
    config.data.randaugment_std = 0.5
    config.data.erasing = 0.25
    config.data.mixup = 0.8
    config.data.cutmix = 1.0
    config.data.label_smoothing = 0.1

    config.optimizer.learning_rate = 5e-4 * config.batch_size / 256
    config.optimizer.warmup_epochs = 5
    config.optimizer.weight_decay = 0.05
    config.optimizer.b2 = 0.999
    config.optimizer.layer_decay = 0.65
    return config
