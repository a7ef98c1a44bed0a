"""Every compression and sparsification of the family, as layers: against golden arrays and float64 references.

The references have one image and one head at a time and share no line with the layers or operators.
"""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax import UserError, create_model, init_params, random_mask
from crate_jax.config_schema import LEAVES
from crate_jax.models.layers.crate import COMPRESSIONS, SPARSIFICATIONS, DecoderLayer, EncoderLayer
from crate_jax.models.layers.settings import LayerSettings
from crate_jax.models.stacks import apply_stack
from crate_jax.models.trace import trace
from crate_jax.training.optimizer import decay_mask
from tests.random_parameters import random_parameters

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "white_box_layers.npz"
WIDTH, HEADS, TOKENS = 24, 3, 17
GRID = (4, 4)


@pytest.mark.parametrize("scan", [False, True])
def test_a_stack_of_crate_alpha_layers_is_the_official_one(scan):
    """Values and gradients of two layers that the official code made."""
    golden = dict(np.load(GOLDEN))
    layer = EncoderLayer(LayerSettings(
        sparsification="overcomplete", sparsification_residual=True, output_bias=False, eta=0.1, lambda_=0.1,
        layer_norm_epsilon=1e-6,
    ), int(golden["heads"]))  # fmt: skip

    def stack(name, prefix="alpha_layer"):
        return jnp.stack([golden[f"{prefix}{index}_{name}"] for index in range(2)])

    params = {
        "compression": {
            "attention_norm": {key: stack(f"attention_norm_{key}") for key in ("scale", "bias")},
            "attention": {"subspaces": stack("subspaces_DxKP"), "output_kernel": stack("output_KPxD")},
        },
        "sparsification": {
            "ista_norm": {key: stack(f"ista_norm_{key}") for key in ("scale", "bias")},
            "dictionary": stack("dictionary_DxA"), "readout": stack("dictionary_out_DxA"),
        },
    }  # fmt: skip

    def run(params, z_BxNxD):
        return apply_stack(layer, params, z_BxNxD, scan=scan, remat="none")[0]

    out, pull = jax.vjp(run, params, jnp.asarray(golden["alpha_in_BxNxD"]))
    slope, slope_in = pull(jnp.asarray(golden["alpha_cotangent_BxNxD"]))
    found = {
        "alpha_out_BxNxD": out,
        "alpha_grad_in_BxNxD": slope_in,
        "grad_subspaces_DxKP": slope["compression"]["attention"]["subspaces"],
        "grad_dictionary_DxA": slope["sparsification"]["dictionary"],
        "grad_dictionary_out_DxA": slope["sparsification"]["readout"],
    }
    for name, ours in found.items():
        wanted = golden[name] if name in golden else stack(name)
        np.testing.assert_allclose(ours, wanted, atol=1e-5 * np.abs(wanted).max(), err_msg=name)


def norm(z, p):
    return (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def softmax(scores, axis):
    e = np.exp(scores - scores.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def heads_of(w):
    return np.split(w, HEADS, axis=1)


def attended(w, o, p):
    """The heads' results side by side, before the output map."""
    size = WIDTH // HEADS
    if o.compression == "mssa":
        return np.concatenate([softmax(h @ h.T * size**-0.5, 1) @ h for h in heads_of(w)], 1)
    if o.compression == "tssa":
        unit = [h / np.sqrt((h**2).sum(0)) for h in heads_of(w)]
        member = softmax(np.stack([t * (u**2).sum(1) for t, u in zip(p["temperature"], unit, strict=True)]), 0)
        out = []
        for m, h in zip(member, heads_of(w), strict=True):
            second = (m[:, None] * h**2).sum(0) / (m.sum() + 1e-8)
            out.append(-m[:, None] * h / (1 + second))
        return np.concatenate(out, 1)
    out = []
    for h, s_x, s_r in zip(heads_of(w), p["step_tokens"], p["step_representatives"], strict=True):
        patches = h[1:].reshape(2, 2, 2, 2, size)  # 4 x 4 patches to 2 x 2 means
        pooled = patches.mean((1, 3)).reshape(4, size)
        weight = softmax(pooled @ h.T / np.sqrt(size), 1)
        moved = pooled + s_r * weight @ h
        out.append(s_x * weight.T @ softmax(moved @ moved.T / np.sqrt(size), 1) @ moved)
    return np.concatenate(out, 1)


def compressed(z, o, p, sign=1):
    attention = p["attention"]
    w = norm(z, p["attention_norm"]) @ attention["subspaces"]
    moved = attended(w, o, p)
    matrix = {
        "tied": attention["subspaces"].T, "transposed": attention["subspaces"], "identity": np.eye(WIDTH),
        "learned": attention.get("output_kernel"), "fixed": attention.get("fixed_output_kernel"),
    }[o.output_projection]  # fmt: skip
    branch = moved @ matrix + attention.get("output_bias", 0)
    if o.layer_scale is not None:
        branch = branch * p["layer_scale"]
    if o.compression_step == "convex":
        return z + sign * p.get("kappa", o.kappa) * (branch - z)
    return z + (-sign if o.compression_step == "subtract" else sign) * branch


def sparsified(z, o, p):
    if o.sparsification == "none":
        return z
    if o.sparsification == "mlp":
        x = norm(z, p["mlp_norm"]) @ p["up_kernel"] + p["up_bias"]
        from scipy.special import erf

        out = x * (1 + erf(x / np.sqrt(2))) / 2 @ p["down_kernel"] + p["down_bias"]
    else:
        x, D = norm(z, p["ista_norm"]), p["dictionary"]
        if o.sparsification == "ista":
            out = np.maximum(x - o.eta * (x @ D.T @ D - x @ D) - o.eta * o.lambda_, 0)
        else:
            a = np.zeros((len(x), D.shape[1]))
            for _ in range(o.sparsification_steps):
                a = np.maximum(a - o.eta * (a @ D.T - x) @ D - o.eta * o.lambda_, 0)
            out = a @ p.get("readout", D).T
    return z + out if o.sparsification_residual else out


ENCODERS = [
    {},
    {"output_projection": "tied"},
    {"output_projection": "transposed"},
    {"output_projection": "fixed"},
    {"output_projection": "identity"},
    {"compression_step": "subtract"},
    {"compression_step": "convex", "kappa": 0.3},
    {"compression_step": "convex", "kappa": 0.3, "learned_kappa": True, "output_projection": "tied"},
    {"compression": "tssa", "layer_scale": 0.5},
    {"compression": "cbsa", "pool_size": 2},
    {"sparsification": "none"},
    {"sparsification": "mlp", "sparsification_residual": True},
    {"sparsification_residual": True},
    {"sparsification": "overcomplete", "expansion": 2, "readout": "tied", "lambda_": 0.2},
    {"sparsification": "overcomplete", "sparsification_steps": 3, "sparsification_residual": True, "eta": 0.05},
    {"compression": "tssa", "sparsification": "overcomplete", "expansion": 2},
]


def random_layer(layer, z):
    """Initial values, each moved by a little, so that no norm or bias is trivial."""
    params = nn.meta.unbox(layer.init(jax.random.key(0), z)["params"])
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        tree, [leaf + 0.1 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    )


@pytest.mark.parametrize("options", ENCODERS, ids=lambda options: "-".join(map(str, options.values())) or "crate")
def test_each_encoder_layer_is_its_equation(options):
    settings = LayerSettings(**options)
    layer = EncoderLayer(settings, HEADS, GRID)
    z = jnp.asarray(np.random.default_rng(0).normal(size=(2, TOKENS, WIDTH)), jnp.float32)
    params = random_layer(layer, z)
    out = jax.jit(layer.apply)({"params": params}, z)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for index in range(2):
        wanted = compressed(np.asarray(z[index], np.float64), settings, p["compression"])
        wanted = sparsified(wanted, settings, p.get("sparsification"))
        np.testing.assert_allclose(out[index], wanted, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [
    {}, {"compression": "tssa", "layer_scale": 1.0}, {"compression_step": "subtract"},
    {"sparsification": "overcomplete", "decoder_map": "overcomplete", "sparsification_residual": True},
], ids=str)  # fmt: skip
def test_each_decoder_layer_reverses_both_steps(options):
    settings = LayerSettings(**options)
    layer = DecoderLayer(settings, HEADS, GRID)
    y = jnp.asarray(np.random.default_rng(0).normal(size=(2, TOKENS, WIDTH)), jnp.float32)
    params = random_layer(layer, y)
    out = jax.jit(layer.apply)({"params": params}, y)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for index in range(2):
        start = np.asarray(y[index], np.float64)
        if settings.decoder_map == "linear":
            mapped = norm(start, p["linear_norm"]) @ p["linear_kernel"]
        else:
            mapped = sparsified(start, settings, p["densification"])
        wanted = compressed(mapped, settings, p["expansion"], sign=-1)
        np.testing.assert_allclose(out[index], wanted, atol=5e-5, rtol=1e-4)


def rate(z, p, epsilon):
    """R^c_eps(LN(z) | U), nats."""
    w = norm(z, p["attention_norm"]) @ p["attention"]["subspaces"]
    size = WIDTH // HEADS
    factor = size / (len(z) * epsilon**2)
    return sum(np.linalg.slogdet(np.eye(size) + factor * h.T @ h)[1] / 2 for h in heads_of(w))


def test_the_gradient_step_is_the_gradient_through_the_norm():
    """Against central differences of the float64 rate; the step descends, its inverse ascends."""
    settings = LayerSettings(compression="gradient", kappa=0.8, sparsification="none")
    z = jnp.asarray(np.random.default_rng(0).normal(size=(1, TOKENS, WIDTH)), jnp.float32)
    layer = EncoderLayer(settings, HEADS, GRID)
    params = random_layer(layer, z)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)["compression"]
    start = np.asarray(z[0], np.float64)
    change = np.asarray(layer.apply({"params": params}, z)[0], np.float64) - start
    length = 0.8 * TOKENS * 0.5**2 / (WIDTH // HEADS)  # kappa / a
    for seed in range(4):
        direction = np.random.default_rng(seed).normal(size=start.shape)
        slope = (rate(start + 1e-5 * direction, p, 0.5) - rate(start - 1e-5 * direction, p, 0.5)) / 2e-5
        np.testing.assert_allclose(-(change * direction).sum() / length, slope, rtol=2e-3, atol=1e-4)
    assert rate(start + change, p, 0.5) < rate(start, p, 0.5)
    assert rate(start - change, p, 0.5) > rate(start, p, 0.5)


def test_the_neumann_step_is_the_gradient_where_its_series_converges():
    """At a large distortion two terms are the gradient to second order; at a small one they are not."""
    z = jnp.asarray(np.random.default_rng(0).normal(size=(1, TOKENS, WIDTH)), jnp.float32)

    def change(compression, epsilon):
        settings = LayerSettings(compression=compression, kappa=1.0, epsilon=epsilon, sparsification="none")
        layer = EncoderLayer(settings, HEADS, GRID)
        return np.asarray(layer.apply({"params": random_layer(layer, z)}, z) - z, np.float64)

    for epsilon, close in ((20.0, True), (0.5, False)):
        exact, series = change("gradient", epsilon), change("neumann", epsilon)
        assert (np.abs(series - exact).max() < 0.01 * np.abs(exact).max()) == close


def reductions(jaxpr):
    """Operand dtypes and result shapes of every sum of a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "reduce_sum":
            yield str(equation.invars[0].aval.dtype), equation.outvars[0].aval.shape
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns"):
                yield from reductions(inner)


@pytest.mark.parametrize("options", [
    *ENCODERS, {"compression": "gradient", "learned_kappa": True}, {"attention_scale": "paper", "learned_kappa": True},
], ids=str)  # fmt: skip
def test_gradients_of_parameters_are_summed_in_float32(options):
    layer, z = EncoderLayer(LayerSettings(**options), HEADS, GRID), jnp.ones((2, TOKENS, WIDTH), jnp.bfloat16)
    params = jax.eval_shape(lambda: nn.meta.unbox(layer.init(jax.random.key(0), z)["params"]))
    loss = jax.grad(lambda params: jnp.mean(layer.apply({"params": params}, z).astype(jnp.float32)))
    low = [shape for dtype, shape in reductions(jax.make_jaxpr(loss)(params).jaxpr) if dtype == "bfloat16"]
    assert low == []


FAMILIES = [
    "crate_mae_tiny",
    "crate_alpha_mae_small",
    "tost_mae_tiny",
    "cbsa_mae_tiny",
    "aot_mae_tiny",
    "vit_mae_small",
]
SMALL = {"width": 24, "num_heads": 3, "depth": 1, "decoder_depth": 1, "image_size": (16, 24), "patch_size": 4}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {"mask_mode": "drop"}) for name in FAMILIES),
        ("crate_mae_tiny", {"mask_mode": "token"}),
        ("cbsa_mae_tiny", {"mask_mode": "token"}),
        ("crate_mae_tiny", {"compression": "gradient", "kappa": 0.1, "learned_kappa": True}),
    ],
)
def test_every_family_completes_rectangular_images(name, settings):
    """A step of each family as a masked autoencoder: shapes, finite gradients of every parameter, one layout.

    What the encoder sees, all tokens of a grid or some of them, makes a difference to CBSA alone, which pools the grid.
    """
    more = {"decoder_width": 24, "decoder_num_heads": 3} if name.startswith("vit") else {}
    model = create_model(name, **SMALL, **more, **settings)
    params = random_parameters(model)
    images = jax.random.normal(jax.random.key(1), (2, 16, 24, 3))
    mask = random_mask(jax.random.key(2), 2, model.num_patches, model.mask_ratio)

    def loss(params):
        output = model.apply({"params": params}, images, mask)
        return jnp.mean(jnp.square(output.prediction_BxNxF - 1)), output

    (value, output), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert output.prediction_BxNxF.shape == (2, 24, 48) and np.isfinite(value)
    flat = jax.tree_util.tree_leaves_with_path(slope)
    assert all(np.isfinite(leaf).all() for _, leaf in flat)
    still = [jax.tree_util.keystr(path) for path, leaf in flat if not np.abs(leaf).max() > 0]
    assert still == [], "parameters without a gradient"
    layers = jax.eval_shape(lambda params: trace(model, params, images)[1], params)
    assert list(layers) == ["decoder_00", "encoder_00"]  # a traced dictionary comes back sorted
    sparse = layers["encoder_00"].get("sparse_codes")
    assert (sparse is not None) == (getattr(model, "sparsification", "none") in ("ista", "overcomplete"))


def test_what_is_fixed_or_a_step_size_is_not_decayed():
    model = create_model(
        "crate_mae_tiny", **SMALL, compression_step="convex", learned_kappa=True, output_projection="fixed"
    )
    mask = decay_mask(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
    inside = mask["encoder"]["compression"]
    assert inside["attention"]["subspaces"] and not inside["attention"]["fixed_output_kernel"] and not inside["kappa"]


def test_the_schema_offers_the_layers_that_there_are():
    assert LEAVES["model.compression"].choices == tuple(COMPRESSIONS)
    assert LEAVES["model.sparsification"].choices == (*SPARSIFICATIONS, "none")


@pytest.mark.parametrize("settings,words", [
    ({"compression": "gradient", "compression_step": "convex"}, "compression='gradient'"),
    ({"compression": "gradient", "output_projection": "fixed"}, "compression='gradient' projects by U"),
    ({"learned_kappa": True}, "learned_kappa"),
    ({"sparsification": "none", "decoder_map": "overcomplete"}, "decoder_map"),
    ({"epsilon": 0.0, "attention_scale": "paper"}, "epsilon=0.0"),
    ({"compression_step": "subtract", "attention_scale": "paper"}, "is a convex step"),  # was taken as if not there
    ({"image_size": (30, 32), "patch_size": 8}, "image_size=30x32.*such as 32"),
    ({"table_image_size": 20}, "table_image_size=20"),
    ({"compression": "msa"}, "mssa, tssa, cbsa, gradient, neumann"),
])  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(settings, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        create_model("crate_mae_tiny", **settings)
