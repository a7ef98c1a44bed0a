"""Every place where paper, book and code differ: each option against the paper's equations, in float64.

The reference is written with tokens as columns, as the paper has them, one head and one image at a time; it shares no
line with the operators.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.models.registry import create_model
from crate_jax.models.stacks import layer_params
from crate_jax.operators.masking import random_mask
from tests.random_parameters import random_parameters

SIZE = {"width": 24, "num_heads": 3, "depth": 1, "image_size": 16, "patch_size": 4, "channels": 2}
RATIO = 0.75


def norm(z, p, eps):
    return (z - z.mean(0)) / np.sqrt(z.var(0) + eps) * p["scale"][:, None] + p["bias"][:, None]


def softmax(scores):
    e = np.exp(scores - scores.max(0))
    return e / e.sum(0)


def compress(z, p, o, sign):
    """One column a token: Z + sign MSSA(LN(Z)), head by head."""
    width, tokens = z.shape
    size = width // o["num_heads"]
    normed = norm(z, p["attention_norm"], 1e-5)
    U = np.split(p["attention"]["subspaces"], o["num_heads"], axis=1)
    paper = o.get("attention_scale") == "paper"
    heads = []
    for U_k in U:
        codes = U_k.T @ normed
        heads.append(codes @ softmax(codes.T @ codes * (1 if paper else size**-0.5)))
    if o.get("output_projection") == "tied":
        moved = sum(U_k @ head for U_k, head in zip(U, heads, strict=True))
    else:
        moved = p["attention"]["output_kernel"].T @ np.concatenate(heads) + p["attention"]["output_bias"][:, None]
    start = normed if o.get("skip") == "normed" else z
    if not paper:
        return start + sign * moved
    step = sign * o.get("kappa", 1.0) * size / (tokens * o.get("epsilon", 0.5) ** 2)
    return (1 - step) * start + step * moved


def sparsify(z, p, o):
    """ReLU(Z + eta D^T (Z - D Z) - eta lambda), with the textbook's three products."""
    a, D = norm(z, p["ista_norm"], 1e-5), p["dictionary"]
    eta, lam = o.get("eta", 0.1), o.get("lambda_", 0.5)
    return np.maximum(a - eta * (D.T @ (D @ a) - D.T @ a) - eta * lam, 0)


def positions(grid, width):
    """Column by column: the token at (row, column) has sines and cosines of the column first."""
    table = np.zeros((width, grid * grid + 1))
    quarter = width // 4
    for row in range(grid):
        for column in range(grid):
            for i in range(quarter):
                omega = 10000 ** (-i / quarter)
                entries = (np.sin(column * omega), np.cos(column * omega), np.sin(row * omega), np.cos(row * omega))
                table[i::quarter, 1 + row * grid + column] = entries
    return table


def patches(image, size):
    """F x N: each patch row by row, channel fastest."""
    return np.stack(
        [
            image[r : r + size, c : c + size].reshape(-1)
            for r in range(0, image.shape[0], size)
            for c in range(0, image.shape[1], size)
        ],
        1,
    )


def crate_mae(p, image, mask, o):
    """(latent, prediction) of one image, tokens as rows again."""
    size, width = o["patch_size"], o["width"]
    mode, table = o.get("mask_mode", "token"), positions(o["image_size"] // size, width)
    x = patches(image, size)
    removed = mask > 0
    if mode == "zero":
        x = x * ~removed
    z = p["embedding_kernel"].T @ x + p["embedding_bias"][:, None]
    if mode == "token":
        z[:, removed] = p["mask_token"][:, None]
    z = np.concatenate([p["class_token"][:, None], z], 1) + table
    if mode == "drop":
        z = z[:, np.concatenate([[True], ~removed])]
    for layer in range(o["depth"]):
        q = layer_params(p, f"encoder_{layer:02d}")
        z = sparsify(compress(z, q["compression"], o, 1), q["sparsification"], o)
    latent = y = norm(z, p["encoder_norm"], 1e-6)
    if mode == "drop":
        y = np.repeat(p["mask_token"][:, None], mask.size + 1, 1)
        y[:, np.concatenate([[True], ~removed])] = latent
        y = y + table
    for layer in range(o["decoder_depth"]):
        q = layer_params(p, f"decoder_{layer:02d}")
        y = compress(q["linear_kernel"].T @ norm(y, q["linear_norm"], 1e-5), q["expansion"], o, -1)
    if o.get("positions") == "subtracted":
        y = y - table
    return latent.T, (p["head_kernel"].T @ norm(y, p["decoder_norm"], 1e-6)[:, 1:] + p["head_bias"][:, None]).T


def random_params(model, seed=0):
    """Small numbers everywhere, and around 1 in the scale of a norm; nothing is compiled."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + (path[-1].key == "scale"), random_parameters(model, seed, deviation=0.15)
    )


def wide(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((2, 16, 16, 2)).astype(np.float32)


@pytest.mark.parametrize("option", [
    {},
    {"output_projection": "tied"},
    {"skip": "normed"},
    {"attention_scale": "paper", "kappa": 0.3, "epsilon": 0.7},
    {"mask_mode": "zero"},
    {"mask_mode": "drop"},
    {"lambda_": 5.0},
    {"eta": 1.0, "lambda_": 0.1},
    {"positions": "subtracted"},
    {"output_projection": "tied", "skip": "normed", "attention_scale": "paper", "mask_mode": "zero"},
], ids=lambda option: "-".join(map(str, option.values())) or "official")  # fmt: skip
def test_each_option_is_its_equation(images, option):
    model = create_model("crate_mae_tiny", **SIZE, decoder_depth=1, mask_ratio=RATIO, **option)
    params = random_params(model)
    mask_BxN = random_mask(jax.random.key(1), 2, model.num_patches, RATIO)
    output = jax.jit(model.apply)({"params": params}, jnp.asarray(images), mask_BxN)
    for index in range(2):
        reference = crate_mae(
            wide(params), images[index].astype(np.float64), np.asarray(mask_BxN[index]),
            {**SIZE, "decoder_depth": 1, **option},
        )  # fmt: skip
        np.testing.assert_allclose(output.latent_BxTxD[index], reference[0], atol=5e-5)
        np.testing.assert_allclose(output.prediction_BxNxF[index], reference[1], atol=5e-5)


def supervised(p, image, o):
    """The supervised CRATE's logits for one image."""
    x = norm(patches(image, o["patch_size"]), p["patch_norm"], 1e-5)
    z = norm(p["embedding_kernel"].T @ x + p["embedding_bias"][:, None], p["embedding_norm"], 1e-5)
    z = np.concatenate([p["class_token"][:, None], z], 1) + p["position_table"].T
    return head(z, p, {**o, "lambda_": 0.1}, 1e-5, slice(0, None))


def classifier(p, image, o):
    """A CRATE-MAE's encoder with a head."""
    z = p["embedding_kernel"].T @ patches(image, o["patch_size"]) + p["embedding_bias"][:, None]
    z = np.concatenate([p["class_token"][:, None], z], 1) + positions(o["image_size"] // o["patch_size"], o["width"])
    return head(z, p, o, 1e-6, slice(1, None))


def head(z, p, o, eps, averaged):
    for layer in range(o["depth"]):
        q = layer_params(p, f"encoder_{layer:02d}")
        z = sparsify(compress(z, q["compression"], o, 1), q["sparsification"], o)
    pooled = z[:, 0] if o["pooling"] == "cls" else z[:, averaged].mean(1)
    return p["head_kernel"].T @ norm(pooled[:, None], p["encoder_norm"], eps)[:, 0] + p["head_bias"]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("name,reference", [("crate_tiny", supervised), ("crate_classifier_tiny", classifier)])
def test_classifiers(images, name, reference, pooling):
    model = create_model(name, **SIZE, num_classes=5, pooling=pooling)
    params = random_params(model)
    logits_BxC = jax.jit(model.apply)({"params": params}, jnp.asarray(images)).logits_BxC
    for index in range(2):
        expected = reference(wide(params), images[index].astype(np.float64), {**SIZE, "pooling": pooling})
        np.testing.assert_allclose(logits_BxC[index], expected, atol=5e-5)


@pytest.mark.parametrize("name", ["crate_classifier_tiny", "vit_classifier_small"])
def test_pretrained_parameters_drop_in(images, name):
    """A classifier's encoder is the masked autoencoder's: same names, same tokens of an image without a mask."""
    pretrained = create_model(name.replace("classifier", "mae"), **SIZE, mask_ratio=RATIO, decoder_depth=1)
    params = random_params(pretrained)
    model = create_model(name, **SIZE, num_classes=3)
    fresh = random_params(model, seed=1)
    assert {key for key in fresh if key not in params} == set()
    loaded = {key: fresh[key] if key.startswith("head") else params[key] for key in fresh}
    tokens = jax.jit(pretrained.apply)({"params": params}, jnp.asarray(images)).latent_BxTxD
    latent = jax.jit(model.apply)({"params": loaded}, jnp.asarray(images)).latent_BxTxD
    np.testing.assert_allclose(latent, tokens, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "scan_layers"),
    [
        ("crate_classifier_tiny", False),
        ("crate_classifier_tiny", True),
        ("vit_classifier_small", False),
        ("crate_alpha_classifier_small", True),
    ],
)
def test_stochastic_depth(images, name, scan_layers):
    """Off outside training; in training some images lose some steps, and the last layer loses all at a rate of 1."""
    shape = {**SIZE, "depth": 3, "scan_layers": scan_layers}
    model = create_model(name, **shape, num_classes=3, drop_path=0.5)
    params = random_params(model)
    batch = jnp.asarray(np.repeat(images[:1], 48, 0))

    def logits(model, seed=None):
        rngs = None if seed is None else {"dropout": jax.random.key(seed)}
        apply = jax.jit(model.apply, static_argnames="train")
        return apply({"params": params}, batch, train=seed is not None, rngs=rngs).logits_BxC

    still = logits(model)
    np.testing.assert_allclose(still, logits(model.clone(drop_path=0.0), seed=1), atol=1e-5)
    assert np.abs(still - still[0]).max() < 1e-5
    moved = np.asarray(logits(model, seed=1))
    np.testing.assert_array_equal(moved, logits(model, seed=1))
    kinds = len(np.unique(np.round(moved, 3), axis=0))
    steps = 2 * model.branches  # the first layer's rate is 0; each other has so many branches
    assert model.branches == (1 if name == "crate_classifier_tiny" else 2)
    assert 2 < kinds <= 2**steps
    rngs = {"dropout": jax.random.key(0)}
    half, none = (
        model.clone(drop_path=rate).apply({"params": params}, 4, method="kept_branches", rngs=rngs)
        for rate in (0.5, 1.0)
    )
    assert set(np.unique(half[-1])) == {0, 2}  # what is kept makes up for what is not
    assert not np.asarray(none[-1]).any() and (np.asarray(none[0]) == 1).all()
