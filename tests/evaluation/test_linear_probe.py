"""The solver against scikit-learn; the choice against what it must not see."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.preprocessing import StandardScaler

from crate_jax.errors import UserError
from crate_jax.evaluation import few_shot, linear_probe
from crate_jax.evaluation.logistic_regression import LogisticRegression, predict, standardise


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return images[:1200], labels[:1200], images[1200:], labels[1200:]


def scikit_learn(train, labels, C):
    scaler = StandardScaler().fit(train)
    return scaler, Reference(C=C, tol=1e-8, max_iter=20000).fit(scaler.transform(train), labels)


@pytest.mark.parametrize("C", [1e-3, 1e-1, 1.0])
def test_finds_scikit_learns_minimum(digits, C):
    train, labels, test, test_labels = digits
    scaler, reference = scikit_learn(train, labels, C)
    x, _, _ = standardise(train, np.ones(len(train)))
    np.testing.assert_allclose(x, scaler.transform(train), rtol=1e-4, atol=1e-4)
    problem = LogisticRegression(x, labels, np.ones(len(train)), 10)
    solution = problem.fit(C, tolerance=1e-6)
    np.testing.assert_allclose(solution["kernel"], reference.coef_.T, atol=2e-3 * np.abs(reference.coef_).max())
    found = linear_probe.fit_and_score(train, labels, test, test_labels, C, 10)
    assert abs(found - reference.score(scaler.transform(test), test_labels)) <= 0.001


def test_two_classes_are_regularised_as_scikit_learn_does(digits):
    train, labels, _, _ = digits
    few = labels < 2
    _, reference = scikit_learn(train[few], labels[few], 0.1)
    x, _, _ = standardise(train[few], np.ones(few.sum()))
    kernel = LogisticRegression(x, labels[few], np.ones(few.sum()), 2).fit(0.1, tolerance=1e-6)["kernel"]
    np.testing.assert_allclose(kernel[:, 1] - kernel[:, 0], reference.coef_[0], atol=2e-3)


def test_weight_zero_is_absence(digits):
    train, labels, test, _ = digits
    weight = np.arange(len(train)) % 3 != 0
    x, mean, scale = standardise(train, weight)
    with_weights = LogisticRegression(x, labels, weight, 10).fit(0.1, tolerance=1e-6)
    y, _, _ = standardise(train[weight], np.ones(weight.sum()))
    without = LogisticRegression(y, labels[weight], np.ones(weight.sum()), 10).fit(0.1, tolerance=1e-6)
    np.testing.assert_allclose(with_weights["kernel"], without["kernel"], atol=1e-3)
    assert (predict(with_weights, (test - mean) * scale) == predict(without, (test - mean) * scale)).mean() > 0.999


def test_hundreds_of_equal_features_cost_few_iterations(digits):
    train, labels, _, _ = digits
    rng = np.random.default_rng(0)
    alike = np.repeat(train, 8, 1) + 0.05 * rng.normal(size=(len(train), 8 * train.shape[1]))
    x, _, _ = standardise(alike, np.ones(len(train)))
    problem = LogisticRegression(x, labels, np.ones(len(train)), 10)
    problem.fit(1e-2)
    assert problem.iterations < 150


def test_the_choice_takes_the_feature_that_generalises(digits):
    train, labels, _, _ = digits
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(len(train), 40))
    chosen = linear_probe.choose({"noise": noise, "pixels": train, "half": train[:, ::2]}, labels, 10)
    assert chosen.features == "pixels" and chosen.accuracy > 0.85


def test_held_out_is_the_last_fifth_of_each_class():
    labels = np.array([0, 1] * 50 + [2])
    held = linear_probe.held_out_mask(labels)
    assert held.sum() == 20 and held[80:100].all() and not held[100]


def test_labels_that_training_lacks_are_wrong_not_an_error():
    train, test, count = linear_probe.compact_labels(np.array([3, 7, 7]), np.array([7, 5, 3, 9]))
    assert train.tolist() == [0, 1, 1] and test.tolist() == [1, -1, 0, -1] and count == 2


def test_one_class_is_refused():
    with pytest.raises(UserError, match="1 class"):
        linear_probe.held_out_mask(np.zeros(10, int))


@pytest.mark.parametrize("wide", [False, True])
def test_few_shot_equals_scikit_learn_on_the_drawn_examples(digits, monkeypatch, wide):
    train, labels, test, test_labels = digits
    if wide:  # more features than examples
        train, test = (np.concatenate([x, x**2 / 16, np.sqrt(x)], 1) for x in (train, test))
    monkeypatch.setattr(few_shot, "REGULARISATIONS", (0.1,))
    found = few_shot.few_shot(train, labels, test, test_labels, 10, shots=(3, 9), draws=2)
    for draw in range(2):
        index_KxM = few_shot.drawn(labels, 9, draw)
        assert (labels[index_KxM] == np.arange(10)[:, None]).all() and len(np.unique(index_KxM)) == 90
        for shots in (3, 9):
            mine = index_KxM[:, :shots].ravel()
            scaler, reference = scikit_learn(train[mine], labels[mine], 0.1)
            assert abs(found[shots][draw] - reference.score(scaler.transform(test), test_labels)) <= 0.004
    assert found[3][0] != found[3][1] and np.mean(found[9]) > np.mean(found[3])


def test_few_shot_needs_as_many_examples_of_each_class(digits):
    labels = np.repeat([0, 1], [7, 20])
    assert few_shot.possible(labels, None) == (5,) and few_shot.possible(labels, (1, 7)) == (1, 7)
    with pytest.raises(UserError, match="smallest class has 7"):
        few_shot.possible(labels, (8,))
