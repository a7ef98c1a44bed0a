"""The data sets of the paper's linear probe: 224 pixels, centre crop, no augmentation.

    crate-jax probe --checkpoint=FILE --config=probe_cifar10 --out=DIR --features=cls@last
    crate-jax knn --workdir=WORKDIR --config.data.name=cifar10 --config.data.train_split=train

Published with the class token and a linear solver (paper; not reproduced here), in %:

                 CRATE-MAE-S   CRATE-MAE-B   ViT-MAE-S   ViT-MAE-B
    cifar10         79.4          80.9          79.9        87.9
    cifar100        56.6          60.1          62.3        68.0
    flowers         57.7          61.8          66.8        66.4
    pets            40.6          46.2          51.8        80.1
"""

from crate_jax.config import default_config

SPLITS = {  # data set: (TFDS name, training split)
    "cifar10": ("cifar10", "train"),
    "cifar100": ("cifar100", "train"),
    "flowers": ("oxford_flowers102", "train+validation"),
    "pets": ("oxford_iiit_pet", "train"),
}
ARGUMENTS = ("cifar10", "cifar100", "flowers", "pets")


def get_config(data="cifar10"):
    """The config.

    Args:
        data: one of ARGUMENTS.
    """
    config = default_config()
    config.data.name, config.data.train_split = SPLITS[data]
    config.data.validation_split = "test"
    return config
