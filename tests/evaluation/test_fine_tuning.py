"""Fine-tuning: what it inherits, what it freezes, and that accumulation changes nothing."""

import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crate_jax.config import default_config, load_config, model_overrides, override
from crate_jax.data.mixing import mixing_plan
from crate_jax.errors import UserError
from crate_jax.evaluation import finetune
from crate_jax.evaluation.classification import Classification, HeadOnly, head_factors, pretrained_start
from crate_jax.evaluation.recipe import check_head_only, classifier_settings, compose, inherited, recipe_for
from crate_jax.evaluation.subject import Subject
from crate_jax.models.registry import boxed_shapes, create_model
from crate_jax.models.sizes import FAMILIES, NETWORKS
from crate_jax.operators.positions import resize_positions, sincos_positions
from crate_jax.training.state import TrainState
from crate_jax.training.step import make_train_step
from tests.compiling import with_devices
from tests.evaluation.conftest import numbers_for

SIZE = {"image_size": 8, "patch_size": 4, "channels": 1, "width": 16, "depth": 2, "num_heads": 2}
DIGITS = load_config("quickstart_digits", [("seed", 3), *((f"model.{name}", size) for name, size in SIZE.items())])
NETWORK = create_model("crate_mae_tiny", **SIZE, decoder_depth=1)
CLASSIFIER = create_model("crate_classifier_tiny", **SIZE, num_classes=5)
DEEP = CLASSIFIER.clone(drop_path=0.5)
BATCH = 16


@pytest.fixture(scope="module")
def params():
    return numbers_for(CLASSIFIER, 0)


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    index = np.arange(BATCH)
    made = {
        "image": random.integers(0, 256, (BATCH, 8, 8, 1), np.uint8),
        "label": random.integers(0, 5, BATCH, np.int32),
        "index": index.astype(np.int32),
    }
    return jax.tree.map(jnp.asarray, made | mixing_plan(0, 0 * index, index, 8, 0.8, 1.0))


@pytest.mark.parametrize(
    ("flags", "leaf", "value"),
    [
        ([], "data.flip", False),  # the digits' own: no digit is mirrored
        ([("data.flip", "True")], "data.flip", True),  # given, though it is the schema's default
        ([], "data.augmentation", "affine"),
        ([("data.augmentation", "mae")], "data.augmentation", "mae"),
        ([], "data.name", "embedded_digits"),
        ([], "seed", 3),
        ([("seed", 0)], "seed", 0),
        ([("data.name", "embedded_photographs")], "data.flip", True),
        ([("data.name", "embedded_photographs")], "data.mean", (0.1307,)),  # as the encoder was trained
        ([("data.name", "embedded_photographs"), ("data.mean", "0.5")], "data.mean", (0.5,)),
        ([("model.drop_path", "0.0")], "model.width", 16),
    ],
)
def test_what_is_not_given_is_inherited(flags, leaf, value):
    recipe = load_config("finetune", flags)
    leaves = inherited(recipe, DIGITS, NETWORK)
    assert not {name for name, _ in flags} & set(leaves)
    group, _, last = leaf.rpartition(".")
    config = override(recipe, leaves.items())
    assert (config[group] if group else config)[last] == value


def test_what_only_pre_training_reads_is_refused():
    for leaf, value in (("norm_pix_loss", "True"), ("masking.kind", "block"), ("evaluate_every_steps", "2")):
        with pytest.raises(UserError, match=f"{leaf}=.* has no effect on fine-tuning"):
            compose(load_config("finetune", [(leaf, value)]), DIGITS, NETWORK)


def test_positions_at_another_size_are_those_of_the_pre_training_resized():
    leaves = inherited(load_config("finetune", [("model.image_size", 16)]), DIGITS, NETWORK)
    assert leaves["model.table_image_size"] == 8
    larger = CLASSIFIER.clone(image_size=16, table_image_size=8)
    table = larger.resized_positions(16, (4, 4))[0]
    np.testing.assert_allclose(table, resize_positions(sincos_positions((2, 2), 16), (2, 2), (4, 4)), atol=1e-6)


def test_a_published_classifier_is_fine_tuned_as_itself():
    network = create_model("tost_small", **SIZE)
    leaves = classifier_settings(override(DIGITS, [("model.name", "tost_small")]), network)
    assert leaves["model.name"] == "tost_small" and leaves["model.sparsification"] == "mlp"


def test_classes_are_those_of_the_data():
    old = create_model("crate_classifier_tiny", **SIZE, num_classes=77)
    pretrained = override(DIGITS, [("model.name", "crate_classifier_tiny"), ("model.num_classes", 77)])
    assert compose(load_config("finetune"), pretrained, old).model.num_classes == 10
    with pytest.raises(UserError, match="has 10 classes"):
        compose(load_config("finetune", [("model.num_classes", 5)]), pretrained, old)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_norm_of_averaged_patches_begins_anew(pooling, params):
    encoder = numbers_for(NETWORK, 1)
    begun, fresh = pretrained_start(params, encoder, pooling)
    source = params if pooling == "mean" else encoder
    np.testing.assert_array_equal(begun["encoder_norm"]["scale"], source["encoder_norm"]["scale"])
    np.testing.assert_array_equal(begun["embedding_kernel"], encoder["embedding_kernel"])
    np.testing.assert_array_equal(begun["head_kernel"], params["head_kernel"])
    assert ("encoder_norm/scale" in fresh) == (pooling == "mean") and "head_bias" in fresh


@pytest.mark.parametrize("family", sorted(family for family in FAMILIES if family.endswith("_mae")))
def test_every_masked_autoencoder_can_be_fine_tuned(family):
    name = next(name for name in NETWORKS if name.startswith(f"{family}_"))
    model = create_model(
        name, **SIZE, decoder_depth=1, **({"decoder_width": 16, "decoder_num_heads": 2} if family == "vit_mae" else {})
    )
    config = override(DIGITS, [("model.name", name)])
    found = override(default_config(), classifier_settings(config, model).items())
    classifier = create_model(found.model.name, **model_overrides(found) | {"num_classes": 5})
    ours, theirs = (jax.tree.map(lambda leaf: leaf.shape, boxed_shapes(one)["encoder"]) for one in (classifier, model))
    assert ours == theirs and classifier.encoder_layer() == model.encoder_layer()


@pytest.mark.parametrize("other", [{"depth": 3}, {"depth": 1}, {"width": 32}, {"patch_size": 2}])
def test_an_encoder_that_does_not_fit_is_refused(other, params):
    encoder = numbers_for(create_model("crate_mae_tiny", **(SIZE | other), decoder_depth=1), 1)
    with pytest.raises(UserError, match=r"does not fit this classifier: .* leave model\.\*"):
        pretrained_start(params, encoder, "cls")


def one_step(objective, optimizer, batch, params, accumulate):
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), None, jnp.full((), -1, jnp.int32))
    step = jax.jit(make_train_step(objective, optimizer, lambda step: 0.0, accumulate=accumulate))
    return step(state, batch, jnp.uint32(0))


def test_mixing_and_stochastic_depth_do_not_change_with_accumulation(params, batch):
    objective = Classification(DEEP, (0.5,), (0.5,), label_smoothing=0.1, mixes=True)
    results = [one_step(objective, optax.sgd(0.1), batch, params, parts)[1] for parts in (1, 4)]
    assert float(results[0]["loss"]) == pytest.approx(float(results[1]["loss"]), rel=1e-6)
    assert float(results[0]["grad_norm"]) == pytest.approx(float(results[1]["grad_norm"]), rel=1e-5)


def test_a_head_alone_has_the_statistics_of_the_whole_batch(params, batch):
    losses = [jax.jit(HeadOnly(CLASSIFIER, (0.5,), (0.5,), parts))(params, batch, 0)[0] for parts in (1, 4)]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=2e-5)
    factors = head_factors(params)
    assert factors["head_kernel"] == factors["head_bias"] == 1.0
    assert not any(jax.tree.leaves({name: tree for name, tree in factors.items() if not name.startswith("head_")}))


@pytest.mark.parametrize(
    "leaf",
    ["data.mixup", "data.cutmix", "data.label_smoothing", "model.drop_path", "optimizer.layer_decay"],
)
def test_a_head_alone_refuses_what_it_would_ignore(leaf):
    check_head_only(default_config(), CLASSIFIER, {})
    with pytest.raises(UserError, match=f"{leaf}=0.5: a head alone"):
        check_head_only(override(default_config(), [(leaf, 0.5)]), CLASSIFIER, {})


def test_raw_pixels_are_those_of_the_data_that_is_fine_tuned_on(monkeypatch):
    seen = []

    def split_rows(subject, split, names, **_):
        seen.append((subject.config.data.name, split))
        raise InterruptedError

    monkeypatch.setattr(finetune, "split_rows", split_rows)
    monkeypatch.setattr(finetune, "drawn_examples", lambda config: None)
    config = override(DIGITS, [("data.name", "cifar10"), ("data.train_split", "train[:50%]")])
    with pytest.raises(InterruptedError):
        finetune.raw_pixels(Subject(NETWORK, {}, DIGITS, None, ""), config)
    assert seen == [("cifar10", "train[:50%]")]


@pytest.mark.parametrize(
    ("examples", "model", "labels", "recipe"),
    [
        (4000, "crate_mae_tiny", None, "finetune"),
        (50_000, "crate_mae_tiny", None, "finetune:medium"),
        (50_000, "crate_mae_tiny", 10, "finetune"),
        (1_281_167, "crate_mae_base", None, "finetune_imagenet:base"),
        (1_281_167, "vit_mae_huge", None, "finetune_imagenet:huge"),
    ],
)
def test_the_recipe_goes_by_the_size_of_the_data_set(monkeypatch, caplog, examples, model, labels, recipe):
    caplog.set_level("INFO")
    source = types.SimpleNamespace(num_examples=examples, num_classes=10)
    monkeypatch.setattr("crate_jax.evaluation.recipe.open_source", lambda name, split, folder: source)
    assert recipe_for(override(DIGITS, [("model.name", model)]), (), labels) == recipe
    assert f"{100 if labels else examples:,} training examples" in caplog.text and load_config(recipe)


PAIRING = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from crate_jax.data.mixing import paired
rows = NamedSharding(jax.make_mesh((4,), ("data",)), PartitionSpec("data"))
batch = {"image": jax.ShapeDtypeStruct((16, 4, 4, 1), jnp.uint8, sharding=rows)}
batch["label"] = jax.ShapeDtypeStruct((16,), jnp.int32, sharding=rows)
text = jax.jit(paired, out_shardings=rows).lower(batch).compile().as_text()
print([word for word in ("all-gather", "all-to-all", "collective-permute", "all-reduce") if word in text])
"""


def test_no_picture_leaves_its_device_to_be_mixed():
    env = os.environ | {"XLA_FLAGS": with_devices(4)}
    done = subprocess.run([sys.executable, "-c", PAIRING], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
