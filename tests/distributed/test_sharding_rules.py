"""Which parameter is split along what: a table for every named configuration, and no parameter without a rule.

`CRATE_JAX_GOLDEN=write python -m pytest tests/distributed/test_sharding_rules.py` writes the tables anew.
"""

import functools
import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType

from crate_jax.config import default_config, load_config, model_overrides, override
from crate_jax.config_files import installed_configs
from crate_jax.distributed.mesh import AXES, mesh_shape
from crate_jax.distributed.sharding import RULES, check_batch, parameter_shardings, rules_for
from crate_jax.errors import UserError
from crate_jax.models.registry import boxed_shapes, create_model
from crate_jax.training.optimizer import make_optimizer
from crate_jax.training.program import build_program
from crate_jax.training.state import state_shardings

GOLDEN = pathlib.Path(__file__).parent / "golden"
MESH = AbstractMesh((2, 4, 2), AXES, axis_types=(AxisType.Auto,) * 3)
CONFIGS = [name for name in installed_configs() if name.startswith(("imagenet_", "quickstart"))]


@functools.cache
def table(name):
    """One line per parameter: name, shape of one layer, and the mesh axes; the axis of layers is replicated."""
    config = load_config(name, [("model.depth", "2"), ("model.decoder_depth", "2")])  # the others are like these
    model = create_model(config.model.name, **model_overrides(config))
    boxed = boxed_shapes(model)
    shapes = jax.tree_util.tree_flatten_with_path(nn.meta.unbox(boxed))[0]
    shardings = jax.tree.leaves(parameter_shardings(boxed, MESH, rules_for(config.mesh)))
    lines = {}
    for (path, shape), sharding in zip(shapes, shardings, strict=True):
        name, spec, sizes = "/".join(key.key for key in path), list(sharding.spec), shape.shape
        if name.startswith(("encoder/", "decoder/")):
            assert sizes[0] == 2 and spec.pop(0) is None, f"the layers of {name} are sharded"
            sizes = sizes[1:]
        where = ", ".join(str(axis or "-") for axis in spec) or "-"
        lines[name] = f"{name:50} {'x'.join(map(str, sizes)):12} {where}"
    return "\n".join(lines.values()) + "\n"


@pytest.mark.parametrize("name", CONFIGS)
def test_named_configurations_are_split_as_written_down(name):
    found, path = table(name), GOLDEN / f"{name}.txt"
    if os.environ.get("CRATE_JAX_GOLDEN") == "write":
        path.write_text(found)
    assert found == path.read_text()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_matrix_of_a_layer_is_split(name):
    for line in table(name).splitlines():
        path, shape, where = line.split(None, 2)
        if "x" in shape and "coder/" in path:
            assert "fsdp" in where and "tensor" in where, line


def test_the_optimizer_lies_as_the_parameters_do(tiny):
    model = create_model(tiny.model.name, **model_overrides(tiny))
    abstract = state_shardings(model, make_optimizer(tiny, 1000), MESH, ema=True)
    wanted = [leaf.sharding.spec for leaf in jax.tree.leaves(abstract.params)]
    for mean in (abstract.ema, abstract.opt_state[1].mu, abstract.opt_state[1].nu):
        assert [leaf.sharding.spec for leaf in jax.tree.leaves(mean)] == wanted


def test_a_parameter_without_a_rule_is_refused():
    bare = {"layer": {"kernel": jax.ShapeDtypeStruct((4, 4), jnp.float32)}}
    with pytest.raises(UserError, match="layer/kernel carries no logical axes"):
        parameter_shardings(bare, MESH)
    unknown = {"kernel": nn.LogicallyPartitioned(jax.ShapeDtypeStruct((4, 4), jnp.float32), ("embed", "colour"))}
    with pytest.raises(UserError, match="'colour', which no rule"):
        parameter_shardings(unknown, MESH)
    odd = {"kernel": nn.LogicallyPartitioned(jax.ShapeDtypeStruct((6, 4), jnp.float32), ("embed", None))}
    with pytest.raises(UserError, match=r"mesh\.fsdp=4 does not divide an axis of 6 of the parameter kernel"):
        parameter_shardings(odd, MESH)


def test_rules_of_a_config_replace_ours():
    config = override(default_config(), [("mesh.rules", "(('embed', None), ('atoms', ('tensor', 'fsdp')))")])
    rules = dict(rules_for(config.mesh))
    assert rules == {**dict(RULES), "embed": None, "atoms": ("tensor", "fsdp")}
    for wrong in (
        "(('colour', 'fsdp'),)",
        "(('embed', 'model'),)",
        "('embed',)",
        "(5,)",
        "(5, None)",
        WRONG_NAME,
        DOUBLE,
        TWICE,
    ):
        with pytest.raises(UserError, match=r"mesh\.rules"):
            rules_for(override(default_config(), [("mesh.rules", wrong)]).mesh)


def test_a_batch_is_divided_as_the_rules_shard_images():
    mesh = AbstractMesh((1, 1, 4), AXES, axis_types=(AxisType.Auto,) * 3)
    check_batch(6, 2, mesh)
    rules = rules_for(override(default_config(), [("mesh.rules", "(('images', ('data', 'tensor')),)")]).mesh)
    check_batch(8, 2, mesh, rules)
    with pytest.raises(UserError, match=r"batch_size=6 is not .*mesh\.data \* mesh\.tensor.*: 8; .* such as 8"):
        check_batch(6, 2, mesh, rules)


WRONG_NAME, DOUBLE = "((['a'], 'data'),)", "(('embed', ('fsdp', 'fsdp')),)"
TWICE = "(('embed', None), ('embed', 'fsdp'))"


@pytest.mark.parametrize(
    ("settings", "devices", "shape"),
    [
        ({}, 8, (8, 1, 1)),
        ({"mesh.fsdp": 4}, 8, (2, 4, 1)),
        ({"mesh.fsdp": -1, "mesh.data": 1, "mesh.tensor": 2}, 8, (1, 4, 2)),
        ({"mesh.fsdp": 4, "mesh.dcn_data": 2}, 16, (4, 4, 1)),
        ({"mesh.fsdp": 3}, 8, "do not multiply to the 8 devices"),
        ({"mesh.fsdp": -1}, 8, "at most one is -1"),
        ({"mesh.data": 2}, 8, "do not multiply to the 8 devices"),
    ],
)
def test_the_mesh_has_the_shape_asked_for(settings, devices, shape):
    mesh = override(default_config(), settings.items()).mesh
    if isinstance(shape, tuple):
        assert mesh_shape(mesh, devices) == shape
    else:
        with pytest.raises(UserError, match=shape):
            mesh_shape(mesh, devices)


@pytest.mark.parametrize("settings,words", [
    ({"mesh.tensor": 2}, "heads are sharded over the mesh axis tensor"),
    ({"mesh.fsdp": 2, "mesh.rules": (("atoms", "fsdp"),)}, "atoms are sharded over the mesh axis fsdp"),
])  # fmt: skip
def test_kernels_on_whole_rows_are_refused_before_compiling(tiny, settings, words):
    config = override(tiny, [("model.product_kernel", "pallas"), ("mesh.data", 1), *settings.items()])
    shape = (1, settings.get("mesh.fsdp", 1), settings.get("mesh.tensor", 1))
    mesh = AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * 3)
    with pytest.raises(UserError, match=words):
        build_program(config, 1000, mesh=mesh, model=create_model(config.model.name, **model_overrides(config)))
