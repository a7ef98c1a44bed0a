"""Oxford Pets for a linear probe or nearest neighbours: 224 pixels, centre crop.

    crate-jax probe --checkpoint=FILE --config=probe_pets --out=DIR --features=cls@last
    crate-jax knn --workdir=WORKDIR --config.data.name=oxford_iiit_pet --config.data.train_split=train

Published with the class token and a linear solver (paper; not reproduced here):
40.6 and 46.2 % (CRATE-MAE-S and -B), 51.8 and 80.1 % (ViT-MAE-S and -B).
"""

from crate_jax.config import default_config


def get_config():
    """The config."""
    config = default_config()
    config.data.name = "oxford_iiit_pet"
    config.data.train_split = "train"
    config.data.validation_split = "test"
    return config
