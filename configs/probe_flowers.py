"""Flowers-102 for a linear probe or nearest neighbours: 224 pixels, centre crop.

    crate-jax probe --checkpoint=FILE --config=probe_flowers --out=DIR --features=cls@last
    crate-jax knn --workdir=WORKDIR --config.data.name=oxford_flowers102 --config.data.train_split=train+validation

Published with the class token and a linear solver (paper; not reproduced here):
57.7 and 61.8 % (CRATE-MAE-S and -B), 66.8 and 66.4 % (ViT-MAE-S and -B).
"""

from crate_jax.config import default_config


def get_config():
    """The config."""
    config = default_config()
    config.data.name = "oxford_flowers102"
    config.data.train_split = "train+validation"
    config.data.validation_split = "test"
    return config
