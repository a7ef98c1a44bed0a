"""Features against a network's own layers, pooled by hand in float64."""

import dataclasses
import functools
import os

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

import crate_jax
from crate_jax.data.sources import open_source
from crate_jax.errors import UserError
from crate_jax.evaluation import feature_store
from crate_jax.evaluation.features import (
    RAW,
    candidate_names,
    cell_matrix,
    feature_length,
    parse_features,
    several_features,
)
from crate_jax.evaluation.scatter import scatter_figure
from crate_jax.evaluation.subject import of_run
from crate_jax.models.trace import trace
from tests.evaluation.conftest import numbers_for


@pytest.fixture(scope="module")
def network():
    model = crate_jax.create_model(
        "crate_mae_tiny", image_size=32, patch_size=4, width=16, num_heads=2, depth=3, decoder_depth=1, mask_mode="drop"
    )
    return model, crate_jax.init_params(model, jax.random.key(0))


def by_hand(tokens_BxTxD, pooling, rows, columns):
    tokens_BxTxD = np.asarray(tokens_BxTxD, np.float64)
    patches = tokens_BxTxD[:, 1:].reshape(len(tokens_BxTxD), rows, columns, -1)
    if pooling == "cls":
        return tokens_BxTxD[:, 0]
    if pooling == "mean":
        return patches.mean((1, 2))
    cut = 4 if rows >= 8 else 3
    cells = [part.mean((1, 2)) for band in np.array_split(patches, cut, 1) for part in np.array_split(band, cut, 2)]
    return np.concatenate(cells, 1)


@pytest.mark.parametrize("size", [32, 28])
@pytest.mark.parametrize("name", ["cls@encoder_00", "mean@encoder_02", "cells@encoder_01", "cells@last", "cls@last"])
def test_equal_layers_pooled_by_hand(network, name, size):
    model, params = network
    images = np.random.default_rng(0).normal(size=(5, size, size, 3)).astype(np.float32)
    output, layers = trace(model, params, images)
    pooling, _, layer = name.partition("@")
    tokens = output.latent_BxTxD if layer == "last" else layers[layer]["output"]
    expected = by_hand(tokens, pooling, size // 4, size // 4)
    found = crate_jax.extract_features(model, params, images, name)
    assert found.shape == expected.shape and feature_length(name, model.clone(image_size=size)) == expected.shape[1]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_layer_0_is_not_the_input_and_last_is_after_the_norm(network):
    model, params = network
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    last, deepest = (
        crate_jax.extract_features(model, params, images, f"cls@{layer}") for layer in ("last", "encoder_02")
    )
    assert np.abs(np.asarray(last - deepest)).max() > 1e-2
    assert (
        np.asarray(crate_jax.extract_features(model, params, images, "cls@encoder_00")) >= 0
    ).all()  # after ISTA's ReLU


def test_cells_average_every_row_once():
    for size in (1, 2, 3, 7, 8, 14, 33):
        weights = cell_matrix(size)
        assert len(weights) == min(size, 4 if size >= 8 else 3)
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
        assert ((weights > 0).sum(0) == 1).all()


@pytest.mark.parametrize(
    "name",
    ["cells", "cells@encoder_03", "cells@encoder_1", "median@last", "cls@-1", "cls@first", "cls@²", "cls@encoder_001",
     "cls@encoder_" + 5000 * "1", "cls@" + 5000 * "1"],
)  # fmt: skip
def test_a_name_that_means_nothing_is_refused(name):
    with pytest.raises(UserError, match="--features="):
        parse_features(name, 3)


def test_candidates_are_few_and_end_at_the_last_layer():
    assert candidate_names(4, ("cls",)) == ["cls@encoder_00", "cls@encoder_01", "cls@encoder_02", "cls@last"]
    assert len(candidate_names(24)) == 18


@pytest.mark.parametrize(("old", "new"), [("mean@2", "mean@encoder_01"), ("cls@12", "cls@encoder_11")])
def test_a_layer_counted_from_1_is_refused_with_its_name(network, old, new):
    with pytest.raises(UserError, match=new):
        crate_jax.extract_features(*network, np.zeros((1, 32, 32, 3), np.float32), old)


@pytest.mark.parametrize("shape", [(2, 32, 32, 1), (32, 32, 3), (2, 30, 32, 3), (2, 0, 32, 3)])
def test_images_that_do_not_fit_are_refused(network, shape):
    with pytest.raises(UserError, match="preprocess"):
        crate_jax.extract_features(*network, np.zeros(shape, np.float32))


def test_pixels_are_refused(network):
    for dtype in (np.uint8, np.int64, bool):
        with pytest.raises(UserError, match="preprocess"):
            crate_jax.extract_features(*network, np.zeros((1, 32, 32, 3), dtype))
    for value in (200.0, np.nan, np.inf):
        with pytest.raises(UserError, match="preprocess"):
            crate_jax.extract_features(*network, np.full((1, 32, 32, 3), value, np.float32))


def test_raw_pixels_of_large_images_are_small():
    """Of 1.28 million images at 224 pixels they take 8 GB in half precision, not 386 in float32."""
    size = {"image_size": 224, "patch_size": 32, "width": 16, "num_heads": 2, "depth": 1, "decoder_depth": 1}
    model = crate_jax.create_model("crate_mae_tiny", **size)
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), "uint8")
    raw_pixels = functools.partial(several_features, model, names=(RAW,), statistics=((0.5,) * 3, (0.2,) * 3))
    found = jax.eval_shape(raw_pixels, numbers_for(model, 0), images)
    assert found[RAW].shape == (2, 32 * 32 * 3) and feature_length(RAW, model) == 32 * 32 * 3


def test_features_that_do_not_fit_on_the_disk_are_refused(tmp_path):
    feature_store._check_space(tmp_path, 1000)
    with pytest.raises(UserError, match=r"free, and 1073741824\.0 GiB of features are to be written"):
        feature_store._check_space(tmp_path, 2**60)


def test_large_features_are_kept_on_disk_and_interrupted_ones_leave_nothing(workdir, tmp_path, monkeypatch):
    subject = dataclasses.replace(of_run(workdir), out=epath.Path(tmp_path))
    extract, names = feature_store._extract, ("cls@last", "mean@last")
    held = feature_store.split_rows(subject, "test[:9]", names)

    def interrupted(*arguments):
        extract(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_store, "IN_MEMORY", 0)
    monkeypatch.setattr(feature_store, "_extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        feature_store.split_rows(subject, "test[:9]", names)
    assert not list((tmp_path / "features").iterdir())
    monkeypatch.setattr(feature_store, "_extract", extract)
    feature_store.split_rows(subject, "test[:9]", names)
    monkeypatch.delattr(feature_store, "_extract")  # nothing is computed again
    mapped = feature_store.split_rows(subject, "test[:9]", names)
    for name in names:
        assert isinstance(mapped.features[name], np.memmap)
        np.testing.assert_allclose(mapped.features[name], held.features[name], rtol=1e-3, atol=1e-6)
    assert (mapped.label_N == held.label_N).all() and mapped.index_N.tolist() == list(range(9))


def test_features_are_found_again_for_the_same_question_alone(workdir, monkeypatch):
    """Parameters, network, normalisation, examples and the version of the code, which may compute them otherwise."""

    def key(*overrides, split="test[:9]", first=0, change=lambda subject: subject):
        subject = change(of_run(workdir, overrides))
        return feature_store._key(subject, subject.open_split(split), np.arange(first, 9))

    def trained_on(subject):
        return dataclasses.replace(subject, params=subject.params | {"head_bias": subject.params["head_bias"] + 1})

    plain = key()
    assert key(("data.num_workers", 1), ("data.prefetch", 3)) == plain
    others = [key(one) for one in (("data.mean", "0.2"), ("data.std", "0.2"), ("model.image_size", "36"))]
    others += [key(split="train[:9]"), key(first=1), key(change=trained_on)]
    monkeypatch.setattr(feature_store, "__version__", "0.0.1")
    others += [key()]
    assert len({plain, *others}) == 1 + len(others)


def test_a_result_says_what_was_set_otherwise_than_in_training(workdir):
    assert "settings" not in of_run(workdir).stamp("test[:9]")["source"]
    overrides = [("model.mask_ratio", "0.5"), ("model.remat", "full"), ("data.prefetch", "3"), ("data.mean", "0.2")]
    subject = of_run(workdir, overrides)
    assert subject.stamp("test[:9]")["source"]["settings"] == {"model.mask_ratio": 0.5, "data.mean": (0.2,)}


@pytest.mark.parametrize(("classes", "said"), [(3, "cifar"), (30, "cifar: 24 of 30 classes")])
def test_the_plane_of_features_says_how_many_classes_are_drawn(classes, said):
    features = np.random.default_rng(0).normal(size=(90, 5))
    (axis,) = scatter_figure(features, np.arange(90) % classes, str, "cifar").axes
    assert axis.get_title() == said and len(axis.collections) == min(classes, 24)


def test_features_of_a_bucket_are_mapped_without_a_name_of_the_user(tmp_path, monkeypatch):
    """As in a container whose user is a number only."""

    def nobody():
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nobody)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert feature_store._local("gs://bucket/run").is_dir()


def test_an_edited_picture_of_the_same_size_has_new_features(tmp_path):
    for name in ("a", "b"):
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.bmp")
    source = open_source("image_folder", "train", str(tmp_path))
    before = feature_store._times(source)
    assert before == feature_store._times(source)
    path = tmp_path / f"{source.store.relative_paths()[0]}"
    Image.new("L", (4, 4), 255).save(path)
    os.utime(path, (1, 1))
    assert open_source("image_folder", "train", str(tmp_path)).fingerprint == source.fingerprint
    assert feature_store._times(source) != before
    assert feature_store._times(open_source("embedded_digits", "train"))  # which has no files
