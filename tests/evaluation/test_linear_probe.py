"""The solver against scikit-learn; the choice against what it must not see."""

import tracemalloc

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.preprocessing import StandardScaler

from crate_jax.errors import UserError
from crate_jax.evaluation import selection, solver
from crate_jax.evaluation.probe import probe
from crate_jax.evaluation.subject import of_run


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
    found = solver.fit(train, labels, C, 10)
    assert found.converged
    np.testing.assert_allclose((train - found.mean_G) * found.scale_G, scaler.transform(train), atol=1e-4)
    np.testing.assert_allclose(found.kernel_GxK, reference.coef_.T, atol=2e-2 * np.abs(reference.coef_).max())
    expected = reference.score(scaler.transform(test), test_labels)
    assert abs(found.accuracy(test, test_labels) - expected) <= 0.001
    difference = found.probabilities(test) - reference.predict_proba(scaler.transform(test))
    assert np.abs(difference).mean() < 1e-3


def test_two_classes_are_regularised_as_scikit_learn_does(digits):
    train, labels, _, _ = digits
    few = labels < 2
    _, reference = scikit_learn(train[few], labels[few], 0.1)
    kernel = solver.fit(train[few], labels[few], 0.1, 2).kernel_GxK
    np.testing.assert_allclose(kernel[:, 1] - kernel[:, 0], reference.coef_[0], atol=2e-3)


def test_problems_solved_together_are_those_solved_alone(digits, monkeypatch):
    """Two draws of two folds, of designs of different widths, filled up; and the rows of each a few at a time."""
    train, labels, _, _ = digits
    weight = np.stack([np.arange(300) % 3 != rest for rest in (0, 1)])
    draws = [(train[:300], labels[:300]), (train[300:600, ::2], labels[300:600])]
    designs = [solver.make_design(rows) for rows, _ in draws]
    labels_DxN = np.stack([one for _, one in draws])
    problems = solver.make_problems(designs, labels_DxN, np.stack([weight] * 2), least=320)
    together = solver.solve(problems, 10, [1e-1, 1e-2])
    monkeypatch.setattr(solver, "LOGITS", 700)  # few rows at a time
    for draw, C in enumerate((1e-1, 1e-2)):
        for fold in (0, 1):
            one = solver.make_problems([designs[draw]], labels_DxN[draw][None], weight[None, fold : fold + 1])
            alone = solver.solve(one, 10, C).point_DxFxKxP[0, 0].T
            size = len(alone) - 1
            found = np.asarray(together.point_DxFxKxP[draw, fold]).T
            np.testing.assert_allclose(found[:size], alone[:-1], atol=5e-3)
            np.testing.assert_allclose(found[-1], alone[-1], atol=5e-3)
            logits = designs[draw].x_NxR @ found[:size] + found[-1]
            right = (logits.argmax(1) == labels_DxN[draw])[~weight[fold]]
            assert together.right_DxF[draw, fold] == right.sum() and 0.8 < right.mean() < 1
    counted = solver.held_out_right(problems, 10, [1e-2, 1e-1])
    assert abs(counted[0, 1] - together.right_DxF[0].sum()) <= 2 and counted[0, 0] != counted[0, 1]


def test_no_array_of_all_rows_is_made_but_the_features(digits, monkeypatch):
    """Neither logits nor float32, nor a copy of the features: what a solution needs does not grow with the rows."""
    monkeypatch.setattr(solver, "LOGITS", 64 * 100)  # rows in a chunk: 100
    asked, compiled = [], solver._compiled(jax.default_backend())
    monkeypatch.setattr(solver, "_compiled", lambda backend: lambda *arguments: asked.append(arguments))
    temporaries = []
    for rows in (2_000, 40_001):
        design = solver.Design(np.zeros((rows, 64), np.float16), np.ones(64, np.float32), None, None, None)
        problems = solver.make_problems([design], np.zeros((1, rows), int))
        with pytest.raises(TypeError):  # nothing was solved
            solver.solve(problems, 40, 1.0)
        memory = compiled.lower(*asked[-1]).compile().memory_analysis()
        assert memory.argument_size_in_bytes > rows * 64 * 2
        temporaries.append(memory.temp_size_in_bytes)
    assert temporaries[1] <= 1.05 * temporaries[0] < 2_000 * 40 * 4


def test_the_host_has_one_copy_of_the_features(tmp_path, monkeypatch):
    rows = 40_001
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(rows, 64)).astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(solver, "IN_FLOAT32", 0)
    monkeypatch.setattr(solver, "ROWS", 1000)
    monkeypatch.setitem(solver.solve.__kwdefaults__, "max_iterations", 1)
    tracemalloc.start()
    solver.fit(mapped, np.arange(rows) % 3, 1.0, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mapped.nbytes < peak < 1.6 * mapped.nbytes, "labels, weights and a chunk beside it"
    design = solver.make_design(mapped)
    problems = solver.make_problems([design], np.zeros((1, rows), int))
    if jax.default_backend() == "cpu":
        assert problems.x_DxNxR.unsafe_buffer_pointer() == design.x_NxR.ctypes.data


def test_few_labels_of_all_features_share_a_program_and_of_all_numbers_the_last_fit(digits, monkeypatch):
    train, labels, _, _ = digits
    shapes, compiled = set(), solver._compiled(jax.default_backend())

    def recorded(*arguments):
        shapes.add(str(jax.tree.map(np.shape, arguments)))
        return compiled(*arguments)

    monkeypatch.setattr(solver, "_compiled", lambda backend: recorded)
    candidates = {"half": train[:, ::2], "cells": train}
    few = selection.few_shot_classifiers(candidates, labels, 10, (0.1, 1.0), shots=(5, 7), draws=2)
    assert len(few[5]) == len(few[7]) == 2
    assert len(shapes) == 3, "the choice among five, among seven, and the last fit"


def test_a_start_at_another_strength_ends_in_the_same_minimum(digits):
    train, labels, _, _ = digits
    problems = solver.make_problems([solver.make_design(train)], labels[None])
    cold = solver.solve(problems, 10, 1.0)
    warm = solver.solve(problems, 10, 1.0, start=solver.solve(problems, 10, 0.1))
    np.testing.assert_allclose(cold.point_DxFxKxP, warm.point_DxFxKxP, atol=5e-2)
    assert warm.gradient_DxF.max() <= solver.PRECISION
    assert solver.solve(problems, 10, 1.0, start=cold).iterations_DxF.sum() < cold.iterations_DxF.sum()


def test_more_features_than_examples_and_half_precision(digits, monkeypatch):
    train, labels, test, test_labels = digits
    wide, wide_test = (np.concatenate([x, x**2 / 16, np.sqrt(x)], 1) for x in (train, test))
    scaler, reference = scikit_learn(wide[:150], labels[:150], 0.1)
    expected = reference.score(scaler.transform(wide_test), test_labels)
    assert abs(solver.fit(wide[:150], labels[:150], 0.1, 10).accuracy(wide_test, test_labels) - expected) <= 0.004
    scaler, reference = scikit_learn(train, labels, 0.1)
    expected = reference.score(scaler.transform(test), test_labels)
    monkeypatch.setattr(solver, "IN_FLOAT32", 0)
    assert abs(solver.fit(train, labels, 0.1, 10).accuracy(test, test_labels) - expected) <= 0.002
    monkeypatch.setattr(solver, "LARGEST_ROTATED", 10)
    assert abs(solver.fit(train, labels, 0.1, 10).accuracy(test, test_labels) - expected) <= 0.004


def test_hundreds_of_equal_features_cost_few_iterations(digits):
    train, labels, _, _ = digits
    rng = np.random.default_rng(0)
    alike = np.repeat(train, 8, 1) + 0.05 * rng.normal(size=(len(train), 8 * train.shape[1]))
    assert solver.fit(alike, labels, 1e-2, 10).iterations < 20


def test_what_has_not_converged_is_said(digits, caplog, monkeypatch):
    train, labels, _, _ = digits
    monkeypatch.setitem(solver.solve.__kwdefaults__, "max_iterations", 1)
    assert not solver.fit(train, labels, 1.0, 10).converged
    assert "has not converged" in caplog.text and "1 iterations" in caplog.text


def test_the_choice_takes_the_feature_that_generalises(digits, caplog):
    train, labels, _, _ = digits
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(len(train), 40))
    chosen = selection.choose({"noise": noise, "pixels": train, "half": train[:, ::2]}, labels, 10)
    assert chosen.features == "pixels" and chosen.accuracy > 0.85
    assert ("edge" in caplog.text) == (chosen.C in (selection.STRENGTHS[0], selection.STRENGTHS[-1]))
    selection.choose({"pixels": train}, labels, 10, (1e-5, 1e-4))
    assert "C = 0.0001, the best for pixels, is at the edge" in caplog.text


def test_held_out_is_the_last_fifth_of_each_class():
    labels = np.array([0, 1] * 50 + [2])
    held = selection.held_out_mask(labels)
    assert held.sum() == 20 and held[80:100].all() and not held[100]


def test_labels_that_training_lacks_are_wrong_not_an_error():
    train, test, count = selection.compact_labels(np.array([3, 7, 7]), np.array([7, 5, 3, 9]))
    assert train.tolist() == [0, 1, 1] and test.tolist() == [1, -1, 0, -1] and count == 2


def test_one_class_is_refused():
    with pytest.raises(UserError, match="1 class"):
        selection.held_out_mask(np.zeros(10, int))


def test_few_shot_equals_scikit_learn_on_the_drawn_examples(digits):
    train, labels, test, test_labels = digits
    found = selection.few_shot_classifiers({"pixels": train}, labels, 10, (0.1,), shots=(3, 9), draws=2)
    scores = {}
    for draw in range(2):
        index_KxM = selection.drawn(labels, 9, draw)
        assert (labels[index_KxM] == np.arange(10)[:, None]).all() and len(np.unique(index_KxM)) == 90
        for shots in (3, 9):
            mine = index_KxM[:, :shots].ravel()
            scaler, reference = scikit_learn(train[mine], labels[mine], 0.1)
            scores[shots, draw] = found[shots][draw][1].accuracy(test, test_labels)
            assert abs(scores[shots, draw] - reference.score(scaler.transform(test), test_labels)) <= 0.004
    assert scores[3, 0] != scores[3, 1] and scores[9, 0] > scores[3, 0]


def test_few_shot_sees_no_other_label(digits):
    train, labels, _, _ = digits
    rng = np.random.default_rng(0)
    candidates = {"noise": rng.normal(size=(len(train), 40)), "pixels": train}
    drawn = selection.drawn(labels, 5, 0).ravel()
    others = labels.copy()
    rest = np.setdiff1d(np.arange(len(labels)), drawn)
    candidates["cheat"] = np.eye(10)[labels] + 3 * rng.normal(size=(len(train), 10))
    candidates["cheat"][rest] = np.eye(10)[labels[rest]]  # perfect, but for the examples that were drawn
    (one,) = selection.few_shot_classifiers(candidates, others, 10, (0.01, 0.1), shots=(5,), draws=1)[5]
    assert one[0] == "pixels"


def test_few_shot_needs_as_many_examples_of_each_class(digits):
    labels = np.repeat([0, 1], [7, 20])
    assert selection.possible(labels, None) == (5,) and selection.possible(labels, ()) == ()
    assert selection.possible(labels, (1, 7)) == (1, 7)
    with pytest.raises(UserError, match="smallest class has 7"):
        selection.possible(labels, (8,))


@pytest.mark.parametrize("shots", [0, (5, -1), 2.5])
def test_shots_that_make_no_sense_are_refused_before_anything_is_read(shots):
    with pytest.raises(UserError, match=r"^--shots=.*: give a whole number"):
        probe(None, shots=shots)


def test_draws_from_a_part_that_lacks_a_class_are_scored_by_its_classes(workdir, monkeypatch):
    """As of 8,000 classes, of which the 20,000 examples that are drawn from do not have all."""
    subject = of_run(workdir)
    label_N = np.array([one.label for one in subject.open_split("train[:400]").read(np.arange(400))])
    part = np.flatnonzero(label_N > 0)[:300]
    monkeypatch.setattr("crate_jax.evaluation.probe.CHOSEN_ON", 300)
    monkeypatch.setattr(
        "crate_jax.evaluation.feature_store.sample", lambda n, most=None: part if most else np.arange(n)
    )
    result = probe(subject, features="cells@encoder_00", shots=(5,), baselines=())
    assert result.train_examples == 400 and result.few_shot["5"]["accuracy"] > 0.3
