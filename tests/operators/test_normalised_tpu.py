"""Norms and products of a layer as TPU kernels: interpreted they are the textbook, and they compile for a pod."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.errors import UserError
from crate_jax.models.registry import create_model
from crate_jax.operators.kernels.attention_step_tpu import attention_step_tpu
from crate_jax.operators.normalised import normalised_ista, normalised_product
from crate_jax.operators.subspace_attention import attend
from crate_jax.planning.ahead_of_time import missing_compiler
from tests.compiling import with_devices
from tests.operators.test_subspace_attention_tpu import in_a_child, textbook
from tests.random_parameters import random_parameters

SHAPES = [(17, 32, 48), (5, 128, 128), (1, 24, 7), (50, 96, 96)]  # N, D, E: odd ones and whole tiles
DTYPES = [("float32", 3e-6), ("bfloat16", 2e-2)]
# float32 by every shape; what bfloat16 rounds does not depend on it, so an odd one and whole tiles
CASES = [(*DTYPES[0], *shape) for shape in SHAPES] + [(*DTYPES[1], *shape) for shape in SHAPES[:2]]
EPSILON, ETA, LAMBDA = 1e-5, 0.3, 0.2


def normalised(z):
    """LayerNorm without its parameters in float64, and the function that carries a cotangent back through it."""
    inverse = 1 / np.sqrt(z.var(-1, keepdims=True) + EPSILON)
    unit = (z - z.mean(-1, keepdims=True)) * inverse
    jacobian = np.eye(z.shape[-1]) - 1 / z.shape[-1]
    jacobian = (jacobian - unit[..., :, None] * unit[..., None, :] / z.shape[-1]) * inverse[..., None]
    return unit, lambda back: np.einsum("bnd,bnde->bne", back, jacobian)


def arrays(tokens, width, outputs, dtype):
    rng = np.random.default_rng(tokens)

    def draw(*shape, scale=1.0, dtype="float32"):
        return jnp.asarray(scale * rng.normal(size=shape), dtype)

    z = draw(2, tokens, width, dtype=dtype)
    weight = draw(width, outputs, scale=width**-0.5)
    cotangent = draw(2, tokens, outputs, dtype=dtype)
    return z, 1 + draw(width, scale=0.2), draw(width, scale=0.2), weight, cotangent, draw(2, tokens, width, dtype=dtype)


def wide(*them):
    return [np.asarray(one, "f8") for one in them]


def assert_close(got, wanted, tolerance):
    for one, want in zip(got, wanted, strict=True):
        assert one.shape == want.shape
        error = np.abs(np.asarray(one, "f8") - want).max() / np.abs(want).max()
        assert error < tolerance


@pytest.mark.parametrize(("dtype", "tolerance", "tokens", "width", "outputs"), CASES)
def test_norm_and_product_are_the_textbook(tokens, width, outputs, dtype, tolerance):
    z, scale, bias, weight, cotangent, around = arrays(tokens, width, outputs, dtype)

    @jax.jit
    def both(*them):
        value, pull = jax.vjp(
            lambda *them: normalised_product(*them, epsilon=EPSILON, residual=True, kernel="pallas"), *them
        )
        return value, pull((around, cotangent))

    (same, got), back = both(z, scale, bias, weight)
    assert (got.dtype, back[0].dtype, back[3].dtype) == (dtype, dtype, "float32")
    np.testing.assert_array_equal(np.asarray(same, "f4"), np.asarray(z, "f4"))
    z, scale, bias, weight, cotangent, around = wide(z, scale, bias, weight, cotangent, around)
    unit, carry = normalised(z)
    normed, dnormed = unit * scale + bias, cotangent @ weight.T
    wanted = [carry(dnormed * scale) + around, (dnormed * unit).sum((0, 1)), dnormed.sum((0, 1))]
    wanted.append(np.einsum("bnd,bne->de", normed, cotangent))
    assert_close([got, *back], [normed @ weight, *wanted], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance", "tokens", "width"), [case[:4] for case in CASES])
def test_norm_and_ista_are_the_textbook(tokens, width, dtype, tolerance):
    z, scale, bias, dictionary, cotangent, _ = arrays(tokens, width, width, dtype)

    @jax.jit
    def both(*them):
        step = {"epsilon": EPSILON, "step_size": ETA, "sparsity": LAMBDA, "kernel": "pallas"}
        value, pull = jax.vjp(lambda *them: normalised_ista(*them, **step), *them)
        return value, pull(cotangent)

    code, back = both(z, scale, bias, dictionary)
    assert (code.dtype, back[0].dtype, back[3].dtype) == (dtype, dtype, "float32")
    active = np.asarray(code, "f4") > 0  # rounding may put an entry on either side of zero; the gradient follows it
    z, scale, bias, dictionary, cotangent = wide(z, scale, bias, dictionary, cotangent)
    unit, carry = normalised(z)
    normed = unit * scale + bias
    residual = normed - normed @ dictionary.T
    moved = normed + ETA * (residual @ dictionary - LAMBDA)
    passed = cotangent * active
    through = ETA * passed @ dictionary.T
    dnormed = passed + through - through @ dictionary
    wanted = [carry(dnormed * scale), (dnormed * unit).sum((0, 1)), dnormed.sum((0, 1))]
    wanted.append(np.einsum("bni,bnj->ij", ETA * residual, passed) - np.einsum("bni,bnj->ij", through, normed))
    assert_close([code, *back], [np.maximum(moved, 0), *wanted], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_projected_attention_keeps_the_codes_alone(dtype, tolerance):
    rng = np.random.default_rng(0)
    codes, cotangent = (jnp.asarray(rng.normal(size=(2, 17, 32)), dtype) for _ in range(2))
    weight = jnp.asarray(rng.normal(size=(32, 32)) / 6, dtype)

    @functools.partial(jax.jit, static_argnums=0)
    def both(kernel, codes, weight, cotangent):
        value, pull = jax.vjp(
            lambda w, out: attend(w, weight_KPxD=out, num_heads=2, scale=0.25, kernel=kernel), codes, weight
        )
        return value, *pull(cotangent)

    wanted = wide(*both("xla", *(x.astype("float32") for x in (codes, weight, cotangent))))
    assert_close(both("pallas", codes, weight, cotangent), wanted, tolerance)
    _, pull = jax.vjp(lambda w: attend(w, weight_KPxD=weight, num_heads=2, scale=0.25, kernel="pallas"), codes)
    assert [x.shape for x in jax.tree.leaves(pull)].count(codes.shape) == 1


@pytest.mark.parametrize(
    ("dtype", "tolerance", "tokens", "heads", "size"),
    [(*DTYPES[0], 17, 2, 16), (*DTYPES[0], 5, 4, 64), (*DTYPES[0], 50, 12, 48), (*DTYPES[1], 17, 2, 16)],
)
def test_a_step_of_attention_is_the_textbook(tokens, heads, size, dtype, tolerance):
    """One group of heads, two of them, and heads that share lanes."""
    width, factor, scale = heads * size, -1.5, size**-0.5
    start, _, bias, weight, cotangent, codes = arrays(tokens, width, width, dtype)

    @jax.jit
    def both(*them):
        value, pull = jax.vjp(lambda *them: attention_step_tpu(*them, size, scale, factor), *them)
        return value, *pull(cotangent)

    got = both(start, codes, weight, bias)
    assert [one.dtype for one in got] == [dtype] * 3 + ["float32"] * 2
    start, codes, weight, bias, cotangent = wide(start, codes, weight, bias, cotangent)
    shape = (2, tokens, heads, size)
    dmoved = factor * cotangent @ weight.T
    moved, dcodes = (x.reshape(codes.shape) for x in textbook(codes.reshape(shape), dmoved.reshape(shape), scale))
    wanted = [start + factor * (moved @ weight + bias), cotangent, dcodes]
    wanted += [factor * np.einsum("bnp,bnd->pd", moved, cotangent), factor * cotangent.sum((0, 1))]
    assert_close(got, wanted, 2 * tolerance)


CBSA = {"name": "cbsa_mae_tiny", "pool_size": 2, "patch_size": 4}
VARIANTS = [{"output_projection": "tied", "num_heads": 1}, {"skip": "normed"}, CBSA]
SCANNED = {"scan_layers": True, "remat": "names"}


@pytest.mark.parametrize(
    ("changes", "way"),
    [({}, {}), ({}, SCANNED), *((changes, SCANNED) for changes in VARIANTS)],
    ids=str,
)
def test_a_network_is_the_same_by_either_kernel(changes, way):
    size = {"width": 32, "num_heads": 2, "decoder_depth": 1, "image_size": 16, "patch_size": 8} | changes
    size["depth"], name = 2 if way else 1, size.pop("name", "crate_mae_tiny")
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)
    params = random_parameters(create_model(name, **size))

    def step(kernel, **way):
        model = create_model(name, **size, **way, attention_kernel=kernel, product_kernel=kernel)
        return jax.value_and_grad(lambda p: jnp.mean(model.apply({"params": p}, images).prediction_BxNxF ** 2))

    plain = jax.jit(step("xla"))(params)
    got = jax.jit(step("pallas", **way))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), got, plain)


def test_what_does_not_fit_is_refused_in_one_sentence():
    z, vector = jax.ShapeDtypeStruct((1, 17, 4096), jnp.float32), jax.ShapeDtypeStruct((4096,), jnp.float32)
    matrix = jax.ShapeDtypeStruct((4096, 4096), jnp.float32)
    for one in (normalised_product, normalised_ista):
        step = {"step_size": ETA, "sparsity": LAMBDA} if one is normalised_ista else {}
        with pytest.raises(UserError, match=r"model\.product_kernel='pallas'.*17 tokens of 4096.*choose 'xla'"):
            jax.eval_shape(
                lambda *them, one=one, step=step: one(*them, epsilon=EPSILON, kernel="pallas", **step),
                z, vector, vector, matrix,
            )  # fmt: skip


def test_on_a_mesh_every_device_has_its_images_and_gradients_are_summed():
    in_a_child(
        """
        import jax.numpy as jnp, numpy as np
        from crate_jax.models.layers.crate import DecoderLayer, EncoderLayer
        from crate_jax.models.layers.settings import LayerSettings
        from tests.operators.sharded_step import same_on_meshes

        z = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 32)), jnp.float32)
        for layer in (EncoderLayer, DecoderLayer):
            plain, fast = (
                layer(LayerSettings(product_kernel=kernel, attention_kernel=kernel), 2)
                for kernel in ("xla", "pallas")
            )
            same_on_meshes(plain, fast, z, [(shape, ["f32[2,5,32]"]) for shape in ((2, 1, 1), (1, 2, 1))])
        """,
        XLA_FLAGS=with_devices(2),
    )


@pytest.mark.skipif(missing_compiler() is not None, reason=str(missing_compiler()))
def test_compiles_for_a_tpu_with_one_or_two_cores_a_chip():
    """50 tokens of 128: forward and backward of each; v5p sums gradients in two halves."""
    printed = in_a_child(
        """
        from crate_jax.planning.ahead_of_time import prepare_environment, topology_devices
        from crate_jax.planning.chips import find_topology
        prepare_environment()
        import numpy as np, jax, jax.numpy as jnp
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        from crate_jax.operators.kernels.attention_step_tpu import attention_step_tpu
        from crate_jax.operators.normalised import normalised_ista, normalised_product

        for name in ("v5e:2x2", "v5p:2x2x1"):
            mesh = Mesh(np.array(topology_devices(find_topology(name))[:1]), ("data",))
            where = NamedSharding(mesh, PartitionSpec())
            z = jax.ShapeDtypeStruct((8, 50, 128), jnp.bfloat16, sharding=where)
            shapes = ((128,), (128, 128))
            vector, matrix = (jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where) for shape in shapes)
            spec = PartitionSpec("data", None, None)

            def both(z, g, scale, bias, weight):
                how = {"epsilon": 1e-5, "kernel": "pallas", "spec": spec}

                def run(*them):
                    z, codes = normalised_product(*them, residual=True, **how)
                    z = attention_step_tpu(z, codes, them[3], them[2], 64, 0.1, 1, spec)
                    return normalised_ista(z, *them[1:], step_size=0.1, sparsity=0.5, **how)

                with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                    value, pull = jax.vjp(run, z, scale, bias, weight)
                    return value, pull(g)

            text = jax.jit(both).lower(z, z, vector, vector, matrix).compile().as_text()
            print(text.count('custom_call_target="tpu_custom_call"'), "f32[2,128,128]" in text)
        """
    )
    assert printed.split() == ["6", "False", "6", "True"]
