"""MAE's linear probe (He et al. 2022) as a training: LARS, batch 16384, 90 epochs, features batch-normalised.

    crate-jax finetune --workdir=WORKDIR --config=probe_mae
    crate-jax finetune --workdir=WORKDIR --config=probe_mae --labels_per_class=10 --config.batch_size=64 \\
        --config.optimizer.learning_rate=0.1 --config.total_steps=300 --config.optimizer.warmup_steps=30

The encoder is frozen; the class token after the final norm goes through a batch normalisation without scale and shift,
then through the head. No weight decay, MAE's crop, no colour. It differs from Meta's code in one thing: for evaluation
the mean and variance are those of the whole training set, there a running mean. It trains on the data set of the
pre-training unless --config.data.name says another. Published on ImageNet after 1,600 epochs of pre-training: ViT-MAE-B
68.0 %, ViT-MAE-L 75.8 % (not reproduced here). `crate-jax probe` is the fast solver.
"""

from crate_jax.config import default_config


def get_config():
    """The config."""
    config = default_config()
    config.total_epochs = 90
    config.batch_size = 16384
    config.finetune.head_only = True

    config.data.crop_scale = (0.08, 1.0)

    config.optimizer.name = "lars"
    config.optimizer.learning_rate = 0.1 * config.batch_size / 256
    config.optimizer.warmup_epochs = 10
    config.optimizer.weight_decay = 0.0
    return config
