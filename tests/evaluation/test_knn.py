"""Nearest neighbours against NumPy in float64, to the last example."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from crate_jax.errors import UserError
from crate_jax.evaluation import knn
from tests.compiling import with_devices


def textbook(train, labels, test, k, temperature):
    train = train / np.linalg.norm(train, axis=1, keepdims=True)
    test = test / np.linalg.norm(test, axis=1, keepdims=True)
    cosine = test @ train.T
    predicted = []
    for row in cosine:
        nearest = np.argsort(-row, kind="stable")[:k]
        votes = np.zeros(labels.max() + 1)
        for place in nearest:
            votes[labels[place]] += np.exp(row[place] / temperature)
        predicted.append(votes.argmax())
    return np.array(predicted)


@pytest.mark.parametrize("chunk", [97, 16384])
def test_equals_numpy_to_the_last_example(chunk):
    images, labels = load_digits(return_X_y=True)
    images += np.random.default_rng(0).uniform(0, 1e-2, images.shape)  # no two cosines are equal
    found = knn.predict(images[:1200], labels[:1200], images[1200:], chunk=chunk, query_chunk=250)
    expected = textbook(images[:1200], labels[:1200], images[1200:], 20, 0.07)
    assert (found == expected).all()
    assert 0.9 < (found == labels[1200:]).mean() < 1


def test_the_votes_of_a_chunk_are_those_of_all(monkeypatch):
    random = np.random.default_rng(0)
    cosine_QxK, label_QxK = -np.sort(-random.uniform(size=(7, 5)), 1), random.integers(9, size=(7, 5))
    share_QxC = knn.votes(cosine_QxK, label_QxK, num_classes=9)
    monkeypatch.setattr(knn, "VOTES", 3)
    monkeypatch.setattr(knn, "votes", lambda *found, votes=knn.votes, **how: _at_most(3, votes(*found, **how)))
    place_Q, share_Q = knn.winners(cosine_QxK, label_QxK, num_classes=9)
    assert (place_Q == share_QxC.argmax(1)).all() and (share_Q == share_QxC.max(1)).all()


def _at_most(rows, array):
    assert len(array) <= rows
    return array


SHARDED = """
import numpy as np
from crate_jax.config import default_config, override
from crate_jax.distributed.mesh import make_mesh
from crate_jax.evaluation.knn import nearest
random = np.random.default_rng(0)
train, test = random.normal(size=(103, 8)), random.normal(size=(9, 8))
mesh = make_mesh(override(default_config(), [("mesh.tensor", 2)]).mesh)
assert mesh.size == 4
one, four = nearest(train, test, k=30), nearest(train, test, k=30, mesh=mesh, chunk=13)
assert (one[1] == four[1]).all() and np.abs(one[0] - four[0]).max() < 1e-6
print(np.mean([len(set(a) & set(b)) for a, b in zip(one[1], nearest(train, test, k=30, approximate=True)[1])]))
"""


def test_a_bank_sharded_over_devices_gives_the_same_neighbours():
    env = os.environ | {"XLA_FLAGS": with_devices(4)}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=env, capture_output=True, text=True, check=True)
    assert float(done.stdout) >= 0.9 * 30  # approximate ones: 95 % expected


def test_reads_memory_mapped_half_floats(tmp_path):
    images, labels = load_digits(return_X_y=True)
    np.save(tmp_path / "x.npy", images.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert (knn.predict(mapped[:500], labels[:500], mapped[500:600]) == labels[500:600]).mean() > 0.8


class Pending:
    """An array that is not ready before it is waited for."""

    def __init__(self, array):
        self.array, self.ready = array, False

    def block_until_ready(self):
        self.ready = True


def test_a_chunk_waits_for_the_one_before(monkeypatch):
    """Programs are dispatched long before they run, and each would hold its chunk of the training set."""
    made = []

    def merge(best, index, *_, **__):
        assert all(one.ready for one in made)
        made.append(Pending(best))
        return made[-1], index

    monkeypatch.setattr(knn, "_merge", merge)
    monkeypatch.setattr(knn.np, "concatenate", lambda parts, *_: len(parts))
    knn.nearest(np.ones((100, 3), np.float32), np.ones((2, 3), np.float32), k=2, chunk=10)
    assert len(made) == 10


def test_fewer_examples_than_neighbours():
    with pytest.raises(UserError, match="only 5 training examples"):
        knn.predict(np.ones((5, 2)), np.zeros(5, int), np.ones((1, 2)))
