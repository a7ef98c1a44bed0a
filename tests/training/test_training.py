"""Optimizer, schedule, step and loop, in one process."""

import json

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax import UserError, create_model, load, pretrain
from crate_jax.config import override
from crate_jax.models.registry import boxed_shapes
from crate_jax.training.objective import denormalise, normalise
from crate_jax.training.optimizer import decay_mask, make_optimizer
from crate_jax.training.program import build_program
from crate_jax.training.schedule import learning_rate, total_steps


def batch(size=16, seed=0):
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (size, 28, 28, 1), np.uint8)
    return {"image": image, "index": np.arange(size, dtype=np.int32)}


def test_weight_decay_spares_biases_and_norms_and_nothing_else():
    shapes = flax.linen.meta.unbox(boxed_shapes(create_model("crate_mae_tiny", depth=1, decoder_depth=1)))
    spared = {"/".join(path) for path, on in flax.traverse_util.flatten_dict(decay_mask(shapes)).items() if not on}
    assert {name.rpartition("/")[2] for name in spared} == {
        "bias", "scale", "output_bias", "embedding_bias", "head_bias"}  # fmt: skip
    assert len(spared) == 6 * 2 + 2 + 2  # six norms, two output projections, embedding and head


def test_the_rate_rises_linearly_and_falls_as_half_a_cosine(tiny):
    config = override(tiny, [("total_steps", 110), ("optimizer.warmup_steps", 10)])
    rate = learning_rate(config, 1000)
    expected = [1e-3 * s / 10 if s < 10 else 5e-4 * (1 + np.cos(np.pi * (s - 10) / 100)) for s in range(111)]
    np.testing.assert_allclose([rate(s) for s in range(111)], expected, atol=1e-9)


def test_epochs_count_the_whole_split_and_steps_win(tiny):
    config = override(tiny, [("total_steps", None), ("total_epochs", 2.0), ("batch_size", 16)])
    assert total_steps(config, 100) == 13
    assert total_steps(override(config, [("total_steps", 7)]), 100) == 7
    with pytest.raises(UserError, match="total_steps"):
        total_steps(override(config, [("total_epochs", None)]), 100)
    with pytest.raises(UserError, match="warmup_steps=20"):
        learning_rate(override(tiny, [("optimizer.warmup_steps", 20)]), 100)


@pytest.mark.parametrize(
    ("leaves", "says"),
    [
        ({"total_steps": None, "total_epochs": 1e6, "batch_size": 1}, "total_epochs=1000000.0 are 4000000000 steps"),
        ({"total_steps": None}, "neither total_steps nor total_epochs"),
        ({"optimizer.warmup_steps": 12}, "optimizer.warmup_steps=12 is not shorter than the run of 12"),
        (
            {"optimizer.warmup_steps": None, "optimizer.warmup_epochs": 1.0},
            r"optimizer.warmup_epochs=1.0 \(250 steps\) is not shorter",
        ),
    ],
)
def test_a_length_that_cannot_be_is_named(tiny, leaves, says):
    with pytest.raises(UserError, match=says):
        learning_rate(override(tiny, leaves.items()), 4000)


def test_adamw_is_textbook_adamw(tiny):
    config = override(tiny, [("optimizer.clip_norm", None), ("optimizer.warmup_steps", 0), ("total_steps", 1000)])
    optimizer = make_optimizer(config, 1000)
    params = {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([3.0])}
    grads = {"kernel": jnp.array([0.5, 0.25]), "bias": jnp.array([-1.0])}
    state = optimizer.init(params)
    m = v = 0
    x = {name: np.asarray(value, np.float64) for name, value in params.items()}
    for t in (1, 2, 3):
        updates, state = optimizer.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        g = {name: np.asarray(value, np.float64) for name, value in grads.items()}
        m = {n: 0.9 * (m[n] if m else 0) + 0.1 * g[n] for n in g}
        v = {n: 0.95 * (v[n] if v else 0) + 0.05 * g[n] ** 2 for n in g}
        rate = float(learning_rate(config, 1000)(t - 1))
        for name, decay in (("kernel", 0.05), ("bias", 0.0)):
            step = (m[name] / (1 - 0.9**t)) / (np.sqrt(v[name] / (1 - 0.95**t)) + 1e-8)
            x[name] = x[name] - rate * (step + decay * x[name])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), params, x)


def test_pixels_come_back():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    np.testing.assert_allclose(normalise(images, mean, std), (images / 255 - mean) / np.array(std), atol=1e-5)
    np.testing.assert_allclose(denormalise(normalise(images, mean, std), mean, std), images / 255, atol=1e-6)


def test_the_step_is_the_one_it_has_always_been(tiny):
    """Golden losses of three steps. If a change is meant to alter the numbers of training, write the new ones here, and
    say so in the changelog: runs that go on across the change will differ."""
    program = build_program(override(tiny, [("optimizer.warmup_steps", 0)]), 4000)
    state, losses = program.new_state(), []
    for _ in range(3):
        state, metrics = program.step(state, batch(), program.seed)
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, GOLDEN, rtol=2e-5)
    assert int(state.step) == 3 and int(state.bad_step) == -1


GOLDEN = [2.8047111, 2.7557857, 2.6752713]


def test_seeds_share_one_compiled_step_and_draw_masks_of_their_own(tiny):
    """So a sweep over seeds compiles once, and each gets what the seed as a constant gives."""
    programs = [build_program(override(tiny, [("seed", seed)]), 4000) for seed in (0, 2**32 - 1)]
    texts = [program.step.lower(program.abstract, batch(), program.seed).as_text() for program in programs]
    assert texts[0] == texts[1]
    losses = []
    for program in programs:
        state, key = programs[0].new_state(), jax.random.fold_in(jax.random.key(program.config.seed), 0)
        wanted, _ = jax.jit(lambda params, key=key: programs[0].objective(params, batch(), key))(state.params)
        losses.append(float(programs[0].step(state, batch(), program.seed)[1]["loss"]))
        assert losses[-1] == pytest.approx(float(wanted), rel=1e-6)
    assert abs(losses[0] - losses[1]) > 1e-4


def test_masks_follow_from_seed_step_and_example_alone(tiny):
    program = build_program(tiny, 4000)
    params = program.new_state().params
    objective = jax.jit(
        lambda batch, step: program.objective(params, batch, jax.random.fold_in(jax.random.key(0), step))[0]
    )
    whole = batch(16)
    turned = jax.tree.map(lambda x: x[::-1], whole)
    assert objective(whole, 3) == pytest.approx(float(objective(turned, 3)), rel=1e-6)
    assert abs(objective(whole, 3) - objective(whole, 4)) > 1e-4


def test_a_run_trains_saves_and_loads(tiny, tmp_path):
    outcome = pretrain(override(tiny, [("total_steps", 60), ("log_every_steps", 20)]), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "nonzero/encoder_01" in line] == [1, *range(5, 61, 5)]
    assert lines[-1]["step"] == 60 and lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    for name in ("loss", "learning_rate", "grad_norm", "images_per_second", "data_wait_fraction", "corrupt_examples"):
        assert np.isfinite(lines[-1][name])
    model, params = load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, params, outcome.state.params)
    assert model.width == 16 and (tmp_path / "run/figures/loss.png").stat().st_size > 5000
    assert any((tmp_path / "run").glob("events.out.tfevents*"))


def test_numbers_that_are_not_finite_end_the_run_and_spare_the_checkpoint(tiny, tmp_path):
    settings = [("optimizer.clip_norm", None), ("optimizer.warmup_steps", 8), ("optimizer.learning_rate", 1e3)]
    settings.append(("optimizer.name", "sgd"))
    config = override(tiny, [*settings, ("checkpoint.every_steps", 1), ("log_every_steps", 5)])
    with pytest.raises(UserError, match=r"not finite at step (\d+); nothing was saved since, the last good") as refusal:
        pretrain(config, tmp_path / "run")
    bad = int(str(refusal.value).partition("step ")[2].partition(";")[0])
    assert max(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir()) < bad
