"""What must not change the result does not, and what is to save memory or compile time does."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.config import override
from crate_jax.distributed.mesh import make_mesh
from crate_jax.training.program import build_program

STEPS = 3
DEEP = {"model.depth": 8, "model.width": 64, "model.num_heads": 4, "model.image_size": 28, "model.patch_size": 4}


def batch(config, number):
    size, side = config.batch_size, config.model.image_size
    images = np.random.default_rng(number).integers(0, 256, (size, side, side, 1), dtype=np.uint8)
    index = np.arange(size, dtype=np.int32)
    return {"image": images, "label": index, "index": index + number, "epoch": index * 0}


def program_of(tiny, **settings):
    config = override(tiny, settings.items())
    return build_program(config, 1000, mesh=make_mesh(config.mesh, jax.devices()[:1]))


def train(program, steps=STEPS):
    states, state = [], program.new_state()
    for number in range(steps):
        state, metrics = program.step(jax.tree.map(jnp.copy, state), batch(program.config, number), program.seed)
        states.append((state, jax.device_get(metrics)))
    return states


def flat(params):
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(params)])


@pytest.fixture(scope="module")
def plain(tiny):
    return train(program_of(tiny))


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer.accumulate": 4, "optimizer.ema": 0.75},
        {"model.remat": "full"},
        {"model.remat": "names", "model.scan_layers": True, "optimizer.accumulate": 2},
    ],
    ids=str,
)
def test_the_result_is_that_of_the_plain_step(tiny, plain, settings):
    program = program_of(tiny, **settings)
    mean = flat(program.new_state().params)
    for (state, metrics), (wanted, wanted_metrics) in zip(train(program), plain, strict=True):
        np.testing.assert_allclose(metrics["loss"], wanted_metrics["loss"], rtol=1e-5)
        np.testing.assert_allclose(metrics["grad_norm"], wanted_metrics["grad_norm"], rtol=1e-4)
        np.testing.assert_allclose(flat(state.params), flat(wanted.params), rtol=1e-5, atol=1e-5)
        if "optimizer.ema" in settings:
            mean = 0.75 * mean + 0.25 * flat(wanted.params)
            np.testing.assert_allclose(flat(state.ema), mean, rtol=1e-5, atol=1e-5)


def test_clipping_bounds_what_the_optimizer_sees(tiny, plain):
    """With SGD and no momentum the update is rate times the clipped gradient."""
    settings = {"optimizer.name": "sgd", "optimizer.b1": 0.0, "optimizer.weight_decay": 0.0}
    (_, bound), *_ = train(program_of(tiny, **settings, **{"optimizer.warmup_steps": 0, "optimizer.clip_norm": 0.1}), 1)
    np.testing.assert_allclose(bound["update_norm"], 0.1 * 1e-3, rtol=1e-4)
    # the log shows it unclipped: that of the plain step, whose parameters and images are the same
    assert bound["grad_norm"] > 0.2
    np.testing.assert_allclose(bound["grad_norm"], plain[0][1]["grad_norm"], rtol=1e-5)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32(tiny, plain):
    program = program_of(tiny, **{"model.dtype": "bfloat16"})
    state, metrics = train(program)[-1]
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert metrics["loss"].dtype == np.float32
    text = program.step.lower(state, batch(program.config, 0), program.seed).as_text()
    dots = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    half = [line for line in dots if "bf16" in line]
    assert len(half) > 0.8 * len(dots)
    np.testing.assert_allclose(metrics["loss"], plain[-1][1]["loss"], rtol=0.02)


def compiled(tiny, **settings):
    program = program_of(tiny, **(DEEP | settings))
    begin = time.perf_counter()
    lowered = program.step.lower(program.abstract, batch(program.config, 0), program.seed)
    return lowered.compile(), len(lowered.as_text()), time.perf_counter() - begin


def test_remat_lowers_the_temporary_memory(tiny):
    """Eight layers of kept activations against recomputed ones; scanned, as a large network is."""
    settings = {"model.scan_layers": True, "batch_size": 16, "model.decoder_depth": 0}
    none, names, full = (
        compiled(tiny, **settings, **{"model.remat": remat})[0].memory_analysis().temp_size_in_bytes
        for remat in ("none", "names", "full")
    )
    assert full < 0.6 * none
    assert full < names < none


def lowered(tiny, **settings):
    """The lowered step's text."""
    program = program_of(tiny, **settings)
    shapes = {"image": ((28, 28, 1), np.uint8), "index": ((), np.int32)}
    one = {key: jax.ShapeDtypeStruct((16, *shape), dtype) for key, (shape, dtype) in shapes.items()}
    return program.step.lower(program.abstract, one, program.seed).as_text()


def test_a_scan_holds_one_layer_whatever_the_depth(tiny):
    """As many products, and as many operations: the optimizer does not grow either."""
    texts = [lowered(tiny, **{"model.scan_layers": True, "model.depth": depth}) for depth in (2, 8)]
    scanned, operations = ([text.count(what) for text in texts] for what in ("dot_general", " = stablehlo."))
    unrolled = [lowered(tiny, **{"model.depth": depth}).count("dot_general") for depth in (1, 4)]
    assert scanned[0] == scanned[1] and unrolled[1] > 2 * unrolled[0]
    assert operations[0] == operations[1]
