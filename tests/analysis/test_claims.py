"""Intervals cover what they should, and verdicts follow from intervals and thresholds."""

import types

import numpy as np
import pytest

from crate_jax.analysis import claims


def test_intervals_cover_the_true_mean():
    """Of 300 samples of 40 images, about 95 % of the intervals hold the true value of a ratio of means."""
    rng, inside = np.random.default_rng(0), 0
    for seed in range(300):
        first = rng.normal(2, 1, 40)
        values = {"first": first, "second": 0.5 * first + rng.normal(2, 1, 40)}
        value, (low, high) = claims.bootstrap(lambda mean: mean["second"] / mean["first"], values, seed=seed)
        assert low < value < high
        inside += low <= 1.5 <= high
    assert 0.90 < inside / 300 < 0.98


def test_an_interval_resamples_images_together():
    """All arrays take the same draws: a difference that is equal in every image has no uncertainty."""
    first = np.random.default_rng(0).normal(size=(3, 20))
    value, (low, high) = claims.bootstrap(lambda m: (m["b"] - m["a"]).max(0), {"a": first, "b": first + 0.25})
    np.testing.assert_allclose([value, low, high], 0.25, atol=1e-5)


def test_different_numbers_of_images_are_refused():
    with pytest.raises(ValueError, match="images"):
        claims.bootstrap(lambda m: m["a"], {"a": np.zeros(9), "b": np.zeros(10)})


@pytest.mark.parametrize(
    ("interval", "below", "want"),
    [
        ((-0.2, -0.1), True, "supported"), ((-0.1, 0.1), True, "inconclusive"), ((0.1, 0.2), True, "not supported"),
        ((-0.2, -0.1), False, "not supported"), ((-0.1, 0.1), False, "inconclusive"), ((0.1, 0.2), False, "supported"),
        (None, True, "inconclusive"), ((np.nan, 1.0), True, "inconclusive"),
    ],
)  # fmt: skip
def test_verdicts(interval, below, want):
    assert claims.verdict(0.0, interval, 0.0, below=below) == want


def test_few_images_decide_nothing():
    value, interval = claims.bootstrap(lambda m: m["a"], {"a": np.full(claims.FEWEST - 1, -1.0)})
    assert value == -1 and interval is None
    assert claims.verdict(value, interval, 0.0) == "inconclusive"
    assert claims.verdict(value, None, 0.0, exact=True) == "supported"


def made_study(rate_LxB, **parts):
    """Measurements with known answers."""
    model = types.SimpleNamespace(depth=len(rate_LxB), width=32)
    layers = {"network": {"coding_rate_orthonormal": rate_LxB}}
    return types.SimpleNamespace(model=model, layers=layers, parts=parts, others={})


def verdicts(study):
    return {row["name"]: row["verdict"] for row in claims.judge(study)}


def test_one_small_rise_does_not_decide():
    """A rise of 0.3 % is within the tolerance, one of 10 % is not, and noise larger than both is inconclusive."""
    rng = np.random.default_rng(0)
    images = 1 + 0.001 * rng.normal(size=20)
    assert verdicts(made_study(np.outer([100, 90, 90.27, 80], images)))["coding_rate_falls"] == "supported"
    assert verdicts(made_study(np.outer([100, 90, 99, 80], images)))["coding_rate_falls"] == "not supported"
    noisy = np.outer([100, 90, 91, 80], np.ones(20)) + 10 * rng.normal(size=(4, 20))
    assert verdicts(made_study(noisy))["coding_rate_falls"] == "inconclusive"


def test_the_first_state_of_the_decoder_proves_nothing():
    """Only the state that is equal by construction agrees: not supported. All agree: supported."""
    expected = np.array([2, 1, 0])
    cosine = np.zeros((3, 3, 10))
    cosine[2, 0] = 1.0
    inverse = {"cosine_IxJxB": cosine, "expected_J": expected}
    rates = np.ones((1, 10))
    assert verdicts(made_study(rates, inverse=inverse))["decoder_inverts_encoder"] == "not supported"
    cosine[expected, np.arange(3)] = 1.0
    assert verdicts(made_study(rates, inverse=inverse))["decoder_inverts_encoder"] == "supported"


def test_r_that_does_not_stay():
    """Compression that halves R^c and R alike: R is claimed to stay, and does not."""
    before = np.full((2, 12), 100.0)
    terms = {key: np.stack([before, before / 2, before], 1) for key in ("rate", "coding_rate_orthonormal")}
    found = verdicts(made_study(np.ones((1, 12)), half_layers_encoder=terms))
    assert found["compression_lowers_coding_rate"] == "supported"
    assert found["compression_keeps_rate"] == "not supported"
    assert found["compression_raises_gain"] == "not supported"  # R - R^c is what it was


def test_baselines_stand_beside():
    """A claim that the untrained network supports too is shown with it; one that it lacks is None."""
    study = made_study(np.outer([100.0, 50.0], np.ones(10)))
    study.others = {
        "untrained": made_study(np.outer([100.0, 60.0], np.ones(10))),
        "other": made_study(np.ones((1, 10))),
    }
    (row,) = claims.judge(study)
    assert row["verdict"] == row["baselines"]["untrained"]["verdict"] == "supported"
    assert row["baselines"]["other"] is None and row["threshold"] == "at most +1.0 %"
    assert row["shown"].startswith("-50.0 % [") and row["baselines"]["untrained"]["shown"].startswith("-40.0 %")
