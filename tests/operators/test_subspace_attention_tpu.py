"""The TPU kernel of MSSA: interpreted it is the plain operator, and it compiles for a pod that is not there."""

import os
import subprocess
import sys
import textwrap

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from crate_jax.distributed.sharding import RULES
from crate_jax.errors import UserError
from crate_jax.models.layout import spec_of
from crate_jax.models.registry import create_model, init_params
from crate_jax.operators.kernels.subspace_attention_tpu import group_size
from crate_jax.operators.subspace_attention import attend
from crate_jax.planning.ahead_of_time import missing_compiler
from tests.compiling import with_devices

SHAPES = [  # N, heads, P: whole lanes, parts of them, windows across two tiles, more tiles than one, odd sizes
    (5, 8, 32),
    (17, 4, 64),
    (50, 2, 128),
    (17, 8, 48),
    (5, 12, 48),
    (5, 3, 2),
    (17, 1, 160),
]


def textbook(w, g, scale):
    """One image and head after another in float64: o, and the cotangent of w through the softmax's Jacobian."""
    out, back = np.empty_like(w), np.empty_like(w)
    for b, k in np.ndindex(w.shape[0], w.shape[2]):
        x, c = w[b, :, k], g[b, :, k]
        scores = scale * x @ x.T
        a = np.exp(scores - scores.max(1, keepdims=True))
        a /= a.sum(1, keepdims=True)
        out[b, :, k] = a @ x
        d_a = c @ x.T
        d_scores = np.stack([(np.diag(row) - np.outer(row, row)) @ d for row, d in zip(a, d_a, strict=True)])
        back[b, :, k] = a.T @ c + scale * (d_scores @ x + d_scores.T @ x)
    return out, back


@pytest.mark.parametrize(
    ("dtype", "tolerance", "tokens", "heads", "size"),
    [("float32", 3e-6, *shape) for shape in SHAPES] + [("bfloat16", 1.5e-2, *shape) for shape in SHAPES[1:6:2]],
)
def test_interpreted_it_is_the_textbook(tokens, heads, size, dtype, tolerance):
    rng = np.random.default_rng(tokens)
    w, g = (np.asarray(rng.normal(size=(2, tokens, heads * size)).astype("f4"), dtype) for _ in range(2))
    scale = size**-0.5

    @jax.jit
    def both(w, g):
        value, pull = jax.vjp(lambda w: attend(w, num_heads=heads, scale=scale, kernel="pallas"), w)
        return value, pull(g)[0]

    shape = (2, tokens, heads, size)
    wanted = textbook(*(np.asarray(x, "f8").reshape(shape) for x in (w, g)), scale)
    for got, want in zip(both(w, g), wanted, strict=True):
        assert got.dtype == dtype and got.shape == w.shape
        error = np.abs(np.asarray(got, "f8").reshape(shape) - want).max() / np.abs(want).max()
        assert error < tolerance


def test_heads_are_grouped_to_whole_lanes():
    sizes = {(768, 12): 2, (1024, 32): 4, (1024, 8): 1, (768, 16): 8, (576, 12): 12, (24, 3): 3, (160, 1): 1}
    assert {key: group_size(*key) for key in sizes} == sizes


def test_a_network_is_the_same_by_either_kernel_scanned_and_recomputed():
    """The names policy keeps the kernel's result: the backward pass runs the forward kernel no second time."""
    size = {"width": 32, "num_heads": 2, "depth": 2, "decoder_depth": 0, "image_size": 16, "patch_size": 8}
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)
    params = init_params(create_model("crate_mae_tiny", **size), jax.random.key(0))

    def step(kernel, **way):
        model = create_model("crate_mae_tiny", **size, **way, attention_kernel=kernel)
        return jax.value_and_grad(lambda p: jnp.mean(model.apply({"params": p}, images).prediction_BxNxF ** 2))

    plain, got = jax.jit(step("xla"))(params), jax.jit(step("pallas", scan_layers=True, remat="names"))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), got, plain)

    def kernels(remat):
        traced = jax.make_jaxpr(step("pallas", scan_layers=True, remat=remat))(params)
        return str(traced).count("pallas_call[")

    # forward and backward, each for TPU and interpreted; forward once more where nothing is kept
    assert (kernels("names"), kernels("full")) == (4, 6)


def test_too_many_tokens_are_refused_in_one_sentence():
    codes = jax.ShapeDtypeStruct((1, 2000, 128), jnp.float32)
    with pytest.raises(UserError, match=r"model\.attention_kernel='pallas'.*2000 tokens.*choose 'xla'"):
        jax.eval_shape(lambda w: attend(w, num_heads=2, scale=1.0, kernel="pallas"), codes)


def in_a_child(code, **environment):
    """Runs a program of its own, with devices or a compiler that this process does not have."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_on_a_mesh_each_device_has_its_images_and_heads():
    """Two images on data=2, then four heads on tensor=2."""
    in_a_child(
        """
        import jax.numpy as jnp, numpy as np
        from crate_jax.models.layers.mssa import SubspaceAttention
        from crate_jax.models.layers.settings import LayerSettings
        from tests.operators.sharded_step import same_on_meshes

        plain, fast = (SubspaceAttention(LayerSettings(attention_kernel=kernel), 4) for kernel in ("xla", "pallas"))
        z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 32)), jnp.float32)
        meshes = [((2, 1, 1), ["grid=(1", "f32[1,5,32]"]), ((1, 1, 2), ["grid=(2", "f32[2,5,16]"])]
        same_on_meshes(plain, fast, z, meshes)
        """,
        XLA_FLAGS=with_devices(2),
    )


def test_an_axis_that_does_not_divide_is_not_split():
    mesh = jax.sharding.AbstractMesh((2, 1, 4), ("data", "fsdp", "tensor"))
    with nn.logical_axis_rules(RULES), jax.sharding.use_abstract_mesh(mesh):
        assert spec_of((2, 1, 8), "images", None, "heads") == PartitionSpec(("data", "fsdp"), None, "tensor")
        assert spec_of((3, 1, 6), "images", None, "heads") == PartitionSpec(None, None, None)
    assert spec_of((2, 1, 8), "images", None, "heads") is None


@pytest.mark.skipif(missing_compiler() is not None, reason=str(missing_compiler()))
def test_compiles_for_a_tpu_and_keeps_scores_on_the_chip():
    """v5e, two heads of 64 and four of 32, 50 tokens: two kernels, no array of N x N, and a true count of bytes."""
    printed = in_a_child(
        """
        from crate_jax.planning.ahead_of_time import prepare_environment, topology_devices
        from crate_jax.planning.chips import find_topology
        prepare_environment()
        import jax, jax.numpy as jnp
        from jax.sharding import SingleDeviceSharding
        from crate_jax.operators.subspace_attention import attend

        device = topology_devices(find_topology("v5e:2x2"))[0]
        for heads, dtype in ((2, jnp.bfloat16), (4, jnp.float32)):
            codes = jax.ShapeDtypeStruct((8, 50, 128), dtype, sharding=SingleDeviceSharding(device))

            def both(w, g):
                value, pull = jax.vjp(lambda w: attend(w, num_heads=heads, scale=0.1, kernel="pallas"), w)
                return value, pull(g)[0]

            text = jax.jit(both).lower(codes, codes).compile().as_text()
            print(text.count('custom_call_target="tpu_custom_call"'), "50,50" in text)
        """
    )
    assert printed.split() == ["2", "False"] * 2
