"""FLOPs of a train step by formula, against the matrix products of the traced step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax import create_model
from crate_jax.config import default_config, override
from crate_jax.evaluation.classification import HeadOnly
from crate_jax.models.flops import flops_per_image, repeated_flops
from crate_jax.models.registry import boxed_shapes
from crate_jax.training.arithmetic import config_flops
from crate_jax.training.program import build_program
from tests.operators.test_residuals import flops

IMAGES = 2
NETWORK = {"image_size": (32, 48), "patch_size": 8, "width": 64, "num_heads": 4, "depth": 2}
AUTOENCODER = NETWORK | {"decoder_depth": 1}


def shapes_of(model):
    return jax.tree.map(lambda box: box.value, boxed_shapes(model), is_leaf=lambda leaf: hasattr(leaf, "value"))


def traced(objective, model, slope=True):
    """FLOPs per image of an objective's gradient, or of the loss alone."""
    image = jax.ShapeDtypeStruct((IMAGES, *model.image_size, 3), jnp.uint8)
    batch = {"image": image, **dict.fromkeys(("index", "label"), jax.ShapeDtypeStruct((IMAGES,), jnp.int32))}
    function = jax.grad(objective, has_aux=True) if slope else objective
    return flops(jax.make_jaxpr(function)(shapes_of(model), batch, jax.random.key(0)).jaxpr) / IMAGES


def program(**settings):
    """Of crate_mae_tiny or another network, with a config's settings; `__` for the dot."""
    given = {f"model.{name}": value for name, value in AUTOENCODER.items()} | {"model.name": "crate_mae_tiny"}
    given |= {"batch_size": 8, "total_steps": 10, "mesh.data": 1, "data.name": "embedded_photographs"}
    given |= {name.replace("__", "."): value for name, value in settings.items()}
    return build_program(override(default_config(), given.items()), 1000)


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"mask_mode": "drop"}, {"num_heads": 1}, {"remat": "names"}, {"attention_kernel": "recompute"},
        {"attention_kernel": "recompute", "remat": "names"}, {"output_projection": "fixed"},
        {"output_projection": "fixed", "remat": "names"}, {"output_projection": "tied"}, {"compression": "neumann"},
        {"compression": "tssa", "sparsification": "mlp", "remat": "names"}, {"sparsification": "none"},
        {"sparsification": "overcomplete", "readout": "tied", "decoder_map": "overcomplete", "remat": "names"},
        {"name": "vit_mae_small", "decoder_width": 32, "decoder_num_heads": 2, "remat": "names"},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())) or "plain",
)  # fmt: skip
def test_the_formula_counts_the_products_of_a_step(settings):
    """A matrix that is not trained has no gradient, and nothing repeats an MLP's second product."""
    told = program(**{f"model.{name}": value for name, value in settings.items()})
    counted = flops_per_image(told.model) + repeated_flops(told.model)
    assert traced(told.objective, told.model) == pytest.approx(counted)


def test_of_a_range_of_mask_ratios_the_mean_is_counted():
    """The log, compile, inspect and compare counted model.mask_ratio, which no step had."""
    dropped = {"model.mask_mode": "drop"}
    ranged = program(**dropped, masking__ratio=(0.25, 0.75), masking__ratio_levels=3)
    by_ratio = [program(**dropped, model__mask_ratio=ratio) for ratio in (0.25, 0.5, 0.75)]
    wanted = np.mean([traced(one.objective, one.model) for one in by_ratio])
    assert config_flops(ranged.config, ranged.model) == pytest.approx(wanted)
    assert wanted > 1.1 * flops_per_image(ranged.model)  # whose ratio is 0.75
    forward = np.mean([traced(one.objective, one.model, slope=False) for one in by_ratio])
    assert config_flops(ranged.config, ranged.model, training=False) == pytest.approx(forward)


def test_a_head_alone_costs_a_forward_pass():
    """Its encoder was counted forward and backward: tflops_per_device was three times what was done."""
    model = create_model("crate_classifier_tiny", **NETWORK, num_classes=10)
    config = override(default_config(), {"finetune.head_only": True})
    counted = traced(HeadOnly(model, (0.5,) * 3, (0.5,) * 3), model)
    assert config_flops(config, model) == pytest.approx(
        counted, rel=1e-3
    )  # logits of the plain head are traced, unused
