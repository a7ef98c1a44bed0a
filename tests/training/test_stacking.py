"""A scanned network's state: one array a stack for the step, layers by name for everything else."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from crate_jax.config import override
from crate_jax.distributed.mesh import AXES
from crate_jax.models.layer_stack import stacks_of
from crate_jax.training.checkpoint import Checkpoints
from crate_jax.training.program import build_program
from crate_jax.training.stacking import by_layer, stacked
from crate_jax.training.state import state_shardings

STACKS = (("encoder", ("encoder_00", "encoder_01")), ("decoder", ("decoder_00",)))


def program_of(tiny, **settings):
    return build_program(override(tiny, [("optimizer.ema", 0.9), *settings.items()]), 4000)


def after_three_steps(program):
    state = program.new_state()
    for number in range(3):
        images = np.random.default_rng(number).integers(0, 256, (16, 28, 28, 1), dtype=np.uint8)
        state, _ = program.step(state, {"image": images, "index": np.arange(16, dtype=np.int32)})
    return state


@pytest.fixture(scope="module")
def scanned(tiny):
    return program_of(tiny, **{"model.scan_layers": True})


@pytest.fixture(scope="module")
def unrolled(tiny):
    return program_of(tiny)


def test_a_stack_is_the_layers_on_top_of_each_other(scanned, unrolled):
    state = after_three_steps(scanned)
    assert state.stacks == STACKS == stacks_of(scanned.model) and stacks_of(unrolled.model) == ()
    apart = state.by_layer()
    assert jax.tree.structure(apart) == jax.tree.structure(unrolled.abstract)
    for kept, single in ((state.params, apart.params), (state.opt_state[1].nu, apart.opt_state[1].nu)):
        for number, layer in enumerate(("encoder_00", "encoder_01")):
            take = jax.tree.map(lambda leaf, number=number: leaf[number], kept["encoder"])
            jax.tree.map(np.testing.assert_array_equal, take, single[layer])
    again = apart.stacked(STACKS)
    assert jax.tree.structure(again) == jax.tree.structure(scanned.abstract)
    jax.tree.map(np.testing.assert_array_equal, again, state)


@pytest.mark.parametrize("began_scanned", [True, False])
def test_a_checkpoint_does_not_know_how_it_was_computed(tmp_path, scanned, unrolled, began_scanned):
    began, goes_on = (scanned, unrolled) if began_scanned else (unrolled, scanned)
    state, checkpoints = after_three_steps(began), Checkpoints(tmp_path)
    checkpoints.save(3, state)
    checkpoints.wait()
    restored = checkpoints.restore_newest(goes_on.abstract)
    checkpoints.close()
    assert jax.tree.structure(restored) == jax.tree.structure(goes_on.abstract)
    jax.tree.map(np.testing.assert_array_equal, restored.by_layer(), state.by_layer())


def test_a_stack_is_split_as_its_layers_are(tiny, scanned):
    """Over a mesh of sixteen: what an unrolled state's arrays are split along, and the layers not at all."""
    mesh = AbstractMesh((2, 4, 2), AXES, axis_types=(AxisType.Auto,) * 3)
    single, kept = (
        state_shardings(scanned.model, scanned.optimizer, mesh, ema=True, stacks=stacks) for stacks in ((), STACKS)
    )
    assert by_layer(kept, STACKS).replace(stacks=()) == single and stacked(single, STACKS).params == kept.params
    spec = single.params["encoder_00"]["sparsification"]["dictionary"].sharding.spec
    assert kept.params["encoder"]["sparsification"]["dictionary"].sharding.spec == PartitionSpec(None, *spec)
    assert kept.ema == kept.params == kept.opt_state[1].mu


@pytest.mark.parametrize("settings", [{"optimizer.name": "lars"}, {}], ids=str)
def test_an_optimizer_that_looks_at_whole_layers_keeps_them_apart(tiny, settings):
    """LARS takes each matrix's norm; layer-wise decay, each layer's number."""
    rates = None if settings else lambda params: jax.tree.map(lambda _: 1.0, params)
    config = override(tiny, [("model.scan_layers", True), *settings.items()])
    assert build_program(config, 4000, scale_by_layer=rates).abstract.stacks == ()
