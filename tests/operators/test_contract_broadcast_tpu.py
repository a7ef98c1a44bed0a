"""The TPU kernel of CBSA: interpreted it is the plain operator and the textbook, and it compiles for a pod."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.errors import UserError
from crate_jax.operators.contract_broadcast import contract_broadcast_attention, pooling_windows
from crate_jax.planning.ahead_of_time import missing_compiler
from tests.compiling import with_devices
from tests.operators.test_contract_broadcast import PATCHES, adaptive_pool, problem, textbook
from tests.operators.test_subspace_attention_tpu import in_a_child

SETTINGS = [  # grid, class token, pool, heads, P: part of a lane, heads that share tiles, two groups, the whole width
    ((4, 6), "first", 2, 2, 16),
    (None, "first", 2, 3, 48),
    ((5, 7), "none", 3, 4, 64),
    ((2, 3), "last", 4, 1, 24),
]
CASES = [("float32", 1e-5, *one) for one in SETTINGS] + [("bfloat16", 3e-2, *one) for one in SETTINGS[1:3]]


@pytest.mark.parametrize(("dtype", "tolerance", "grid", "class_token", "pool", "heads", "size"), CASES)
def test_interpreted_it_is_the_plain_operator_and_the_textbook(dtype, tolerance, grid, class_token, pool, heads, size):
    codes, s_x, s_r = problem(0, grid, class_token, heads, size)
    cotangent = np.random.default_rng(1).normal(size=codes.shape)
    codes, cotangent = (jnp.asarray(jnp.asarray(x, dtype), "float32") for x in (codes, cotangent))
    s_x, s_r = jnp.float32(s_x), jnp.float32(s_r)

    @functools.partial(jax.jit, static_argnums=0)
    def both(kernel, codes, s_x, s_r, cotangent):
        def run(codes, s_x, s_r):
            steps = {"step_tokens_K": s_x, "step_representatives_K": s_r, "pool": pool}
            return contract_broadcast_attention(codes, grid, **steps, class_token=class_token, kernel=kernel)

        value, pull = jax.vjp(run, codes, s_x, s_r)
        return value, *pull(cotangent)

    wanted = both("xla", codes, s_x, s_r, cotangent)
    got = both("pallas", codes.astype(dtype), s_x, s_r, cotangent.astype(dtype))
    assert [one.dtype for one in got] == [dtype, dtype, "float32", "float32"]
    value = textbook(np.asarray(codes, "f8"), PATCHES[class_token], grid, pool, np.asarray(s_x), np.asarray(s_r))
    for one, want in zip((got[0], *got), (value, *wanted), strict=True):
        want = np.asarray(want, "f8")
        assert one.shape == want.shape
        assert np.abs(np.asarray(one, "f8") - want).max() < tolerance * np.abs(want).max()


def test_windows_are_the_pool():
    for grid, class_token, pool in (((5, 7), "first", 3), ((2, 3), "last", 4), (None, "none", 2)):
        codes = problem(0, grid, class_token)[0][0, :, 0]
        windows_MxN = pooling_windows(len(codes), grid, pool, class_token).astype(float)
        patches, bins = codes[PATCHES[class_token]], (pool, pool) if grid else (1, pool * pool)
        wanted = adaptive_pool(patches.reshape(*(grid or (1, len(patches))), -1), bins)
        np.testing.assert_allclose(windows_MxN @ codes / windows_MxN.sum(1, keepdims=True), wanted, atol=1e-12)


def test_the_codes_are_the_only_residual_of_their_size():
    codes, s_x, s_r = (jnp.float32(x) for x in problem(0, (4, 6), "first", 2, 16))

    def run(codes):
        steps = {"step_tokens_K": s_x, "step_representatives_K": s_r, "pool": 2}
        return contract_broadcast_attention(codes, (4, 6), **steps, kernel="pallas")

    _, pull = jax.vjp(run, codes)
    assert sum(x.size >= codes.size for x in jax.tree.leaves(pull)) == 1


def test_too_many_tokens_are_refused_in_one_sentence():
    codes, step = jax.ShapeDtypeStruct((1, 20000, 2, 64), jnp.float32), jnp.ones(2)
    with pytest.raises(UserError, match=r"model\.attention_kernel='pallas'.*20000 tokens and 64 repr.*choose 'xla'"):
        jax.eval_shape(
            lambda w: contract_broadcast_attention(
                w, None, step_tokens_K=step, step_representatives_K=step, kernel="pallas"
            ),
            codes,
        )


def test_on_a_mesh_each_device_has_its_images_and_heads():
    """Two images on data=2, then four heads on tensor=2."""
    in_a_child(
        """
        import jax.numpy as jnp, numpy as np
        from crate_jax.models.layers.cbsa import ContractBroadcast
        from crate_jax.models.layers.settings import LayerSettings
        from tests.operators.sharded_step import same_on_meshes

        plain, fast = (
            ContractBroadcast(LayerSettings(compression="cbsa", pool_size=2, attention_kernel=kernel), 4)
            for kernel in ("xla", "pallas")
        )
        z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 32)), jnp.float32)
        same_on_meshes(plain, fast, z, [((2, 1, 1), ["f32[1,7,32]"]), ((1, 1, 2), ["f32[2,7,16]"])])
        """,
        XLA_FLAGS=with_devices(2),
    )


@pytest.mark.skipif(missing_compiler() is not None, reason=str(missing_compiler()))
def test_compiles_for_a_tpu_with_one_or_two_cores_a_chip():
    """Heads of 64 in bf16, of 48 in f32, 50 tokens; v5p sums gradients in two halves."""
    printed = in_a_child(
        """
        from crate_jax.planning.ahead_of_time import prepare_environment, topology_devices
        from crate_jax.planning.chips import find_topology
        prepare_environment()
        import numpy as np, jax, jax.numpy as jnp
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        from crate_jax.operators.contract_broadcast import contract_broadcast_attention

        for name, size, dtype in (("v5e:2x2", 64, jnp.bfloat16), ("v5p:2x2x1", 48, jnp.float32)):
            mesh = Mesh(np.array(topology_devices(find_topology(name))[:1]), ("data",))
            where = NamedSharding(mesh, PartitionSpec())
            codes = jax.ShapeDtypeStruct((8, 50, 4, size), dtype, sharding=where)
            step = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=where)

            def both(w, g, *steps):
                def run(w, x, r):
                    how = {"step_tokens_K": x, "step_representatives_K": r, "kernel": "pallas", "pool": 3}
                    return contract_broadcast_attention(w, (7, 7), **how, spec=PartitionSpec("data", None, None))

                with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                    value, pull = jax.vjp(run, w, *steps)
                    return value, pull(g)

            text = jax.jit(both).lower(codes, codes, step, step).compile().as_text()
            print(text.count('custom_call_target="tpu_custom_call"'), f"f32[2,1,{4 * size}]" in text)
        """
    )
    assert printed.split() == ["2", "False", "2", "True"]
