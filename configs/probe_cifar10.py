"""CIFAR-10 for a linear probe or nearest neighbours: 224 pixels, centre crop.

    crate-jax probe --checkpoint=FILE --config=probe_cifar10 --out=DIR --features=cls@last
    crate-jax knn --workdir=WORKDIR --config.data.name=cifar10 --config.data.train_split=train

Published with the class token and a linear solver (paper; not reproduced here):
79.4 and 80.9 % (CRATE-MAE-S and -B), 79.9 and 87.9 % (ViT-MAE-S and -B).
"""

from crate_jax.config import default_config


def get_config():
    """The config."""
    config = default_config()
    config.data.name = "cifar10"
    config.data.train_split = "train"
    config.data.validation_split = "test"
    return config
