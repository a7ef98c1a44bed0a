"""Fine-tuning on Flowers-102, as the supervised CRATE is fine-tuned: AdamW 1e-4, 400 epochs, RandAugment(2, 14).

    crate-jax finetune --workdir=WORKDIR --config=finetune_flowers

The magnitude of 14 lies on the official scale to 30; on the scale to 10 here that is 4.7. The recipe is CRATE's; for
CRATE-MAE none was published, nor was its accuracy.
"""

from crate_jax.config import default_config


def get_config():
    """The config."""
    config = default_config()
    config.total_epochs = 400
    config.batch_size = 256

    config.data.name = "oxford_flowers102"
    config.data.train_split = "train+validation"
    config.data.validation_split = "test"
    config.data.randaugment = 2
    config.data.randaugment_magnitude = 4.7
    config.data.randaugment_std = 0.0

    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_epochs = 5
    config.optimizer.weight_decay = 0.01
    config.optimizer.b2 = 0.999
    return config
