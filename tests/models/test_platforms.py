"""Which attention kernel `auto` stands for on a platform, and cuDNN's, of which the GPU's part is skipped without one.

On a machine with an NVIDIA GPU: JAX_PLATFORMS=cuda,cpu python -m pytest tests/models/test_platforms.py
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.errors import UserError
from crate_jax.models.flops import repeated_flops
from crate_jax.models.registry import create_model, for_platform, init_params
from crate_jax.operators.subspace_attention import attend, cudnn_refuses, cudnn_self_attention, split_heads

needs_gpu = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")


def cpu():
    """The device that the suite otherwise has."""
    return jax.devices("cpu")[0]


def test_what_auto_stands_for_depends_on_where_it_is_trained():
    crate, vit = create_model("crate_mae_tiny"), create_model("vit_mae_small")
    assert for_platform(crate, "tpu").attention_kernel == "recompute"
    assert for_platform(crate, "cpu").attention_kernel == "image_by_image"
    assert for_platform(crate, "cpu", 8) == for_platform(crate, "gpu") == crate
    assert for_platform(vit, "tpu") == for_platform(vit, "cpu") == vit
    chosen = create_model("crate_mae_tiny", attention_kernel="xla")
    assert for_platform(chosen, "tpu") == chosen


class Card:
    """An NVIDIA GPU, as jax describes it."""

    device_kind, client = "Some GPU", types.SimpleNamespace(platform_version="PJRT C API\ncuda 13000")

    def __init__(self, compute_capability="9.0"):
        self.compute_capability = compute_capability


def test_auto_is_cudnn_where_it_can_be():
    half, wide = (create_model("crate_mae_base", dtype="bfloat16", num_heads=heads) for heads in (12, 4))
    vit = create_model("vit_mae_base", dtype="bfloat16")
    assert for_platform(vit, "gpu", 1, Card()).attention_kernel == "cudnn"
    assert for_platform(vit.clone(decoder_num_heads=2), "gpu", 1, Card()).attention_kernel == "auto"  # heads of 256
    assert for_platform(half, "gpu", 1, Card()).attention_kernel == "cudnn"
    assert for_platform(half, "gpu", 1, Card("10.0")).attention_kernel == "cudnn"
    for model, devices, card in (
        (wide, 1, Card()), (half, 1, Card("7.5")), (half, 8, Card()), (half, 1, cpu()),
        (create_model("crate_mae_base"), 1, Card()), (create_model("tost_mae_base", dtype="bfloat16"), 1, Card()),
    ):  # fmt: skip
        assert for_platform(model, "gpu", devices, card) == model


def test_cudnn_that_cannot_be_had_is_one_sentence():
    for dtype, head_size, card, words in (
        ("float32", 64, Card(), "needs model.dtype=bfloat16"), ("bfloat16", 20, Card(), "these have 20"),
        ("bfloat16", 64, Card("7.5"), "Some GPU is older"), ("bfloat16", 64, cpu(), "the device is cpu"),
    ):  # fmt: skip
        assert words in cudnn_refuses(jnp.dtype(dtype), head_size, card)
    with pytest.raises(UserError, match=r"model\.attention_kernel='cudnn': it .*; choose 'xla'"):
        cudnn_self_attention(jnp.zeros((1, 3, 1, 8)), 1.0)  # on a GPU float32 is refused
    with pytest.raises(UserError, match=r"'cudnn' is for MSSA, and model\.compression='tssa'"):
        create_model("tost_mae_tiny", attention_kernel="cudnn")
    with pytest.raises(UserError, match="'pallas' is for MSSA and CBSA, and a ViT has neither"):
        create_model("vit_mae_small", attention_kernel="pallas")


def test_a_vit_that_recomputes_its_attention_is_the_same():
    size = {"width": 24, "num_heads": 3, "depth": 2, "decoder_depth": 1, "image_size": 16, "patch_size": 4}
    kept = create_model("vit_mae_small", **size, decoder_width=16, decoder_num_heads=2)
    params, pixels = init_params(kept, jax.random.key(0)), jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    mask = jnp.tile(jnp.arange(16) >= 4, (2, 1)).astype(jnp.float32)

    def gradient(model):
        def loss(params):
            return jnp.square(model.apply({"params": params}, pixels, mask).prediction_BxNxF).mean()

        return jax.jit(jax.value_and_grad(loss))(params)

    recomputed = kept.clone(attention_kernel="recompute")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), gradient(recomputed), gradient(kept)
    )
    assert repeated_flops(recomputed) > repeated_flops(kept) == 0


def test_initial_values_need_no_kernel():
    """They are traced with float32 tokens, which cuDNN refuses."""
    size = {"width": 48, "num_heads": 3, "depth": 1, "decoder_depth": 1, "image_size": 16, "patch_size": 4}
    model = create_model("crate_mae_tiny", **size, dtype="bfloat16", attention_kernel="cudnn")
    plain = init_params(model.clone(attention_kernel="auto"), jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, init_params(model, jax.random.key(0)), plain)


@needs_gpu
@pytest.mark.parametrize(("tokens", "head_size"), [(17, 32), (50, 64), (197, 64), (256, 128)])
def test_cudnn_computes_what_plain_xla_does(tokens, head_size):
    heads, key = 3, jax.random.key(tokens)
    codes, slope = (
        jax.random.normal(one, (2, tokens, heads * head_size)).astype(jnp.bfloat16) for one in jax.random.split(key)
    )

    def value_and_gradient(codes, kernel):
        def weighted(codes):
            if kernel == "cudnn":
                moved = cudnn_self_attention(split_heads(codes, heads), head_size**-0.5).reshape(codes.shape)
            else:
                moved = attend(codes, num_heads=heads, scale=head_size**-0.5, kernel=kernel)
            return jnp.sum(moved.astype(jnp.float32) * slope.astype(jnp.float32)), moved

        (_, moved), gradient = jax.jit(jax.value_and_grad(weighted, has_aux=True))(codes)
        return np.asarray(moved, "f4"), np.asarray(gradient, "f4")

    with jax.default_device(cpu()):
        exact = value_and_gradient(codes.astype(jnp.float32), "xla")
    for kernel in ("xla", "recompute", "cudnn"):
        for found, wanted in zip(value_and_gradient(codes, kernel), exact, strict=True):
            assert np.linalg.norm(found - wanted) < 0.01 * np.linalg.norm(wanted), kernel


@needs_gpu
@pytest.mark.parametrize("mode", ["token", "drop"])
@pytest.mark.parametrize("way", [{}, {"scan_layers": True, "remat": "names"}, {"scan_layers": True, "remat": "full"}])
def test_a_network_on_the_gpu_is_that_of_the_cpu(mode, way):
    size = {"width": 96, "num_heads": 3, "depth": 2, "decoder_depth": 2, "image_size": 48, "patch_size": 4}
    exact = create_model("crate_mae_tiny", **size, mask_mode=mode, **way)
    pixels = np.random.default_rng(0).normal(size=(4, 48, 48, 3)).astype("f4")
    mask = (np.random.default_rng(1).random((4, 144)).argsort(1) >= 36).astype("f4")

    def loss_and_gradient(model, params):
        def loss(params):
            return jnp.square(model.apply({"params": params}, pixels, mask).prediction_BxNxF.astype(jnp.float32)).mean()

        value, gradient = jax.device_get(jax.jit(jax.value_and_grad(loss))(params))
        return value, np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])

    with jax.default_device(cpu()):
        params = jax.device_get(init_params(exact, jax.random.key(0)))
        value, gradient = loss_and_gradient(exact, params)
    for dtype, kernel, tolerance in (("float32", "xla", 0.005), ("bfloat16", "xla", 0.03), ("bfloat16", "cudnn", 0.03)):
        found, slope = loss_and_gradient(exact.clone(dtype=jnp.dtype(dtype).type, attention_kernel=kernel), params)
        assert abs(found / value - 1) < tolerance, (dtype, kernel)
        assert np.linalg.norm(slope - gradient) < 2 * tolerance * np.linalg.norm(gradient), (dtype, kernel)


@needs_gpu
@pytest.mark.parametrize("name", ["crate_alpha_mae_small", "tost_mae_tiny", "cbsa_mae_tiny", "vit_mae_small"])
def test_the_family_on_the_gpu_is_that_of_the_cpu(name):
    model = create_model(name, width=48, num_heads=3, depth=2, decoder_depth=1, image_size=32, patch_size=8)
    pixels = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("f4")
    mask = (np.random.default_rng(1).random((4, 16)).argsort(1) >= 4).astype("f4")
    with jax.default_device(cpu()):
        params = jax.device_get(init_params(model, jax.random.key(0)))
        expected = np.asarray(jax.jit(model.apply)({"params": params}, pixels, mask).prediction_BxNxF)
    found = np.asarray(jax.jit(model.apply)({"params": params}, pixels, mask).prediction_BxNxF)
    assert np.linalg.norm(found - expected) < 0.005 * np.linalg.norm(expected)
