"""Masks of pre-training: their kind, a ratio drawn per step, one mask per step; the same for every micro-batch."""

import dataclasses

import jax
import numpy as np
import pytest

from crate_jax import UserError
from crate_jax.config import override
from crate_jax.training.program import build_program


def batch(size=16):
    images = np.random.default_rng(0).integers(0, 256, (size, 28, 28, 1), dtype=np.uint8)
    return {"image": images, "index": np.arange(size, dtype=np.int32)}


def key(step):
    return jax.random.fold_in(jax.random.key(0), step)


def objective_of(tiny, **settings):
    program = build_program(override(tiny, settings.items()), 1000)
    return program.objective, program.new_state().params


def test_a_ratio_is_drawn_per_step_from_the_range(tiny):
    ranged = {"masking.ratio": (0.5, 0.75), "masking.ratio_levels": 2}
    objective, params = objective_of(tiny, **ranged)
    loss = jax.jit(objective)
    drawn = {step: loss(params, batch(), key(step)) for step in range(6)}
    ratios = {step: round(float(scalars["mask_ratio"]), 4) for step, (_, scalars) in drawn.items()}
    assert set(ratios.values()) == {0.5, 0.75}
    for ratio in (0.5, 0.75):
        fixed = jax.jit(objective_of(tiny, **{"model.mask_ratio": ratio})[0])
        step = next(step for step, value in ratios.items() if value == ratio)
        np.testing.assert_allclose(drawn[step][0], fixed(params, batch(), key(step))[0], rtol=1e-6)


def test_a_range_of_ratios_ends_where_it_says(tiny):
    """Rounding made 0.6 a little more, and int(N (1 - ratio)) one patch less."""
    config = override(tiny, {"masking.ratio": (0.2, 0.6), "model.patch_size": 14 // 2, "model.image_size": 35})
    assert build_program(config, 1000).objective.mask_ratios[::3] == (0.2, 0.6)


@pytest.mark.parametrize("kind", ["random", "block", "grid"])
def test_every_kind_trains_with_the_same_shapes(tiny, kind):
    objective, params = objective_of(tiny, **{"masking.kind": kind})
    value = float(jax.jit(objective)(params, batch(), key(3))[0])
    plain = float(jax.jit(dataclasses.replace(objective, mask_kind="random"))(params, batch(), key(3))[0])
    assert np.isfinite(value) and (value == plain) == (kind == "random")


def test_one_mask_per_step_is_shared_by_all_micro_batches(tiny):
    whole, parts = (
        build_program(override(tiny, [("masking.per", "step"), ("optimizer.accumulate", count)]), 1000)
        for count in (1, 4)
    )
    losses = [float(program.step(program.new_state(), batch(), program.seed)[1]["loss"]) for program in (whole, parts)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_a_ratio_that_leaves_nothing_visible_is_refused(tiny):
    with pytest.raises(UserError, match=r"^masking.ratio=\(0.5, 0.99\): .*0.99 leaves none of 16"):
        build_program(override(tiny, [("masking.ratio", (0.5, 0.99))]), 1000)
