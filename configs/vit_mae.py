"""ViT-MAE on ImageNet-1K by Meta's recipe (He et al. 2022), the baseline: 1,600 epochs of which 40 warm-up, batch 4096.

    crate-jax pretrain --config=vit_mae_base --workdir=gs://BUCKET/vit_mae_base
    crate-jax finetune --config=probe_mae --workdir=gs://BUCKET/vit_mae_base

Meant for a pod of TPUs. Published after 1,600 epochs (not reproduced here): linear probe ViT-MAE-B 68.0 %, ViT-MAE-L
75.8 %. It differs from Meta's code in one thing: the computation is in bfloat16, there in float16 with loss scaling.
"""

from crate_jax.config import default_config

ARGUMENTS = ("small", "base", "large", "huge")


def get_config(size="base"):
    """The config.

    Args:
        size: one of ARGUMENTS.
    """
    config = default_config()
    config.total_epochs = 1600
    config.batch_size = 4096
    config.norm_pix_loss = True
    config.log_every_steps = 100

    config.model.name = f"vit_mae_{size}"
    config.model.dtype = "bfloat16"

    config.data.name = "imagenet2012"

    config.optimizer.learning_rate = 1.5e-4 * config.batch_size / 256
    config.optimizer.warmup_epochs = 40
    config.optimizer.weight_decay = 0.05

    config.checkpoint.every_steps = 1000
    config.checkpoint.keep_every_steps = 50000
    return config
