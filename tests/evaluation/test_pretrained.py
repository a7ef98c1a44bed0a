"""The Python API: every form of a network opens, says the same, and is saved and opened again."""

import json
import os
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
import PIL.Image
import pytest

import crate_jax
from crate_jax.cli.main import main
from crate_jax.errors import UserError
from crate_jax.evaluation.subject import of_checkpoint
from crate_jax.interop import named_networks
from tests.evaluation import hub


@pytest.fixture(scope="module")
def net(workdir):
    return crate_jax.from_pretrained(str(workdir))


def pixels(count=3, side=28):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 1)).astype(np.uint8)


def test_a_run_opens_and_unpacks(net, workdir):
    model, params = net
    same, others = crate_jax.load(str(workdir))
    assert model == same and net.subject.step == 4 and len(repr(net)) < 200
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), params, others)))


def test_preprocess_takes_paths_pictures_and_arrays(net, tmp_path):
    array = pixels(1)[0]
    PIL.Image.fromarray(array[..., 0]).save(tmp_path / "a.png")
    mean, std = net.subject.statistics
    expected = (array.astype(np.float32) / 255 - mean[0]) / std[0]
    images = net.preprocess([str(tmp_path / "a.png"), tmp_path / "a.png", PIL.Image.open(tmp_path / "a.png"), array])
    assert images.shape == (4, 28, 28, 1)
    np.testing.assert_allclose(images, np.stack([expected] * 4), atol=1e-3)
    for one in (array, array[..., 0], tmp_path / "a.png", array[None]):
        np.testing.assert_allclose(net.preprocess(one)[0], expected, atol=1e-3)
    assert net.preprocess(np.zeros((40, 60, 3), np.uint8)).shape == (1, 28, 28, 1)
    for wrong in (array / 255, "nowhere.png", [], np.zeros((2, 2, 2, 28, 28, 1), np.uint8)):
        with pytest.raises(UserError, match="preprocess"):
            net.preprocess(wrong)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"])
def test_a_pil_image_of_any_mode_is_what_its_file_is(net, tmp_path, mode):
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow before 13 does not read the TIFF of this mode that it writes")
    ramp = np.arange(28 * 28).reshape(28, 28)
    if mode in ("I", "F", "I;16"):
        picture = PIL.Image.fromarray((80 * ramp).astype({"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]))
    else:
        picture = PIL.Image.fromarray((ramp % 256).astype(np.uint8)).convert("RGBA")
        picture.putalpha(PIL.Image.fromarray(np.uint8(ramp // 4)))
        picture = picture.convert("P") if mode == "P" else picture.convert("LA" if mode == "PA" else mode)
        picture = picture.convert(mode)
    assert picture.mode == mode
    if mode in ("PA", "HSV"):  # no file has them
        expected = net.preprocess(picture.convert("RGBA" if mode == "PA" else "RGB"))
    else:
        picture.save(tmp_path / "x.tif")
        expected = net.preprocess(tmp_path / "x.tif")
    found = net.preprocess(picture)
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert float(found.max() - found.min()) > 0.5


def test_a_pil_image_is_turned_as_its_file_is(net, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(np.tile(np.arange(56, dtype=np.uint8), (28, 1))).save(tmp_path / "x.png", exif=exif)
    with PIL.Image.open(tmp_path / "x.png") as picture:
        np.testing.assert_array_equal(net.preprocess(picture), net.preprocess(tmp_path / "x.png"))


def test_preprocess_takes_an_iterator_and_refuses_the_rest(net, tmp_path):
    np.testing.assert_array_equal(net.preprocess(one for one in pixels()), net.preprocess(pixels()))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    wrong = [np.zeros((0, 5), np.uint8), np.zeros((3, 28, 28), np.uint8), np.zeros((28, 28, 4), np.uint8), iter([])]
    wrong += [
        np.zeros((0, 28, 28, 1), np.uint8),
        None,
        3,
        b"x",
        tmp_path,
        tmp_path / "pipe.png",
        tmp_path / "broken.png",
    ]
    for one in wrong:
        with pytest.raises(UserError, match="preprocess: .* is a folder" if one is tmp_path else "preprocess"):
            net.preprocess(one)


def test_numbers_out_of_range_are_refused(net):
    images = net.preprocess(pixels())
    for call in (
        lambda: net.preprocess(pixels(), tiles=1.5),
        lambda: net.reconstruct(images, mask_ratio=float("nan")),
        lambda: net.reconstruct(images, mask_ratio="0.5"),
        lambda: net.reconstruct(images, seed=-1),
        lambda: crate_jax.knn(net, k=2.5),
        lambda: crate_jax.knn(net, k=0),
        lambda: crate_jax.knn(net, temperature=float("nan")),
        lambda: crate_jax.probe(net, features="cls@last", shots=(1.5,), baselines=()),
        lambda: crate_jax.reconstruct(net, limit=-1),
        lambda: crate_jax.analyze(net, limit=1),
        lambda: crate_jax.segment(net, count=5000),
        lambda: crate_jax.finetune(net, labels_per_class=0),
        lambda: crate_jax.finetune(net, labels_per_class=2, from_scratch=True),
        lambda: crate_jax.finetune(net, draws=2),
    ):
        with pytest.raises(UserError, match=r"give|does not go"):
            call()


def test_arguments_of_a_wrong_type_are_refused(net, tmp_path):
    result = crate_jax.evaluation.results.Result("probe", {"a": 1}, {}, {"x": lambda: None})
    given = {"features": "cls@last", "baselines": ()}
    for call in (
        *(lambda one=one: crate_jax.probe(net, **given, shots=one) for one in (0, "5", 2.5, True, [True], {5, 10})),
        lambda: crate_jax.probe(net, **given, shots=np.array([5.0])),
        *(lambda one=one: crate_jax.probe(net, features="cls@last", baselines=one) for one in (None, 0, [0], True)),
        *(lambda one=one: crate_jax.probe(net, features=one) for one in (0, "", ["cls@last"], b"cls@last")),
        *(lambda one=one: crate_jax.probe(net, data=one) for one in (5, True, [], np.zeros((2, 28, 28, 1)))),
        lambda: crate_jax.probe(net, data="image_folder", data_dir=5),
        lambda: crate_jax.knn(net, approximate="no"),
        *(lambda one=one: crate_jax.analyze(net, out=one) for one in (5, [], "", "/dev/null/x")),
        *(lambda one=one: crate_jax.finetune(net, out=one) for one in (5, [])),
        lambda: crate_jax.finetune(net, from_scratch="no"),
        *(lambda one=one: crate_jax.knn(one) for one in (5, None, tuple(net), net.params)),
        *(lambda one=one: crate_jax.pretrain("quickstart", one) for one in (None, 5, True)),
        *(lambda one=one: net.save(one) for one in (None, 5, [], "")),
        *(lambda one=one: result.save(one) for one in (None, 5, [], "")),
        *(lambda one=one: crate_jax.load(one) for one in (None, 5)),
        lambda: crate_jax.load_torch_checkpoint(5),
        *(lambda one=one: crate_jax.load_config("quickstart", one) for one in (5, ["seed=3"], None)),
        *(lambda one=one: net.reconstruct(net.preprocess(pixels()), 0.6).plot(one) for one in (0, "x", None)),
        lambda: crate_jax.create_model("crate_mae_tiny", dtype=5),
    ):
        with pytest.raises(UserError, match=r"give|name a folder|write POOLING"):
            call()
    with pytest.raises(UserError, match="has no figure"):
        result.plot([])
    with pytest.raises(UserError, match="no such network"):
        crate_jax.create_model([])
    with pytest.raises(UserError, match="list, no array"):
        crate_jax.trace(*net, [1])
    found = crate_jax.probe(net, **given, shots=np.array([1, 2]))
    assert list(found.few_shot) == ["1", "2"] and json.loads(found.save(tmp_path).read_text())["few_shot"].keys()


def test_what_is_no_batch_of_images_is_refused(net, workdir):
    images, (model, params) = net.preprocess(pixels()), net
    mask = np.asarray(crate_jax.random_mask(jax.random.key(0), 3, 49, model.mask_ratio))
    wrong = [
        (lambda: net.features([images[0]]), "list, no array"),
        (lambda: net.features("cat.jpg"), "str, no array"),
        (lambda: net.features(images[:0]), "there are no images"),
        (lambda: net.reconstruct(images[:0]), "there are no images"),
        (lambda: net.features(images, None), "^features=None"),
        (lambda: net.features(images, ["mean@last", "cls@last"]), "^features="),
        (lambda: crate_jax.measure_layers(model, params, pixels()), "images of uint8"),
        (lambda: crate_jax.trace(model, params, pixels()), "images of uint8"),
        (lambda: crate_jax.attention_maps(model, params, images, True), "layer=True"),
        (lambda: model.apply({"params": params}, images, 1 - mask), "takes exactly 12 zeros per row"),
        (lambda: model.apply({"params": params}, images, mask[0]), r"mask of shape \(49,\)"),
        (lambda: model.apply({"params": params}, images, mask[:2]), r"mask of shape \(2, 49\)"),
        (lambda: model.apply({"params": params}, images, mask.reshape(3, 7, 7)), r"mask of shape \(3, 7, 7\)"),
        (lambda: crate_jax.from_pretrained(None), "is no name or path"),
        (lambda: crate_jax.from_pretrained(tuple(net)), "is no name or path"),
        (lambda: crate_jax.from_pretrained(" "), "is no name or path"),
        (lambda: crate_jax.from_pretrained(workdir / "checkpoints" / "4"), "is a run: name that folder"),
        (lambda: crate_jax.knn(net, data=workdir), "for its pictures set data.name=image_folder and data.data_dir="),
    ]
    for call, said in wrong:
        with pytest.raises(UserError, match=said):
            call()
    assert crate_jax.subspace_codes(model, params, images, np.int64(1)).shape == (3, 50, 16)


def test_another_function_than_the_trained_one_is_said(workdir, caplog):
    """As a number of heads that the parameters fit too; another image size resizes the positions of the training."""
    larger = crate_jax.from_pretrained(workdir, image_size=56, dtype="bfloat16").model
    assert (larger.image_size, larger.table_image_size) == (56, 28) and "was trained with" not in caplog.text
    assert crate_jax.from_pretrained(workdir, image_size=28).model.table_image_size is None
    crate_jax.from_pretrained(workdir, num_heads=4)
    assert "model.num_heads=4: the network in" in caplog.text and "was trained with 2" in caplog.text


def test_features_and_reconstruction(net):
    images = net.preprocess(pixels())
    found = net.features(images, "cells@encoder_00")
    np.testing.assert_array_equal(found, crate_jax.extract_features(*net, images, "cells@encoder_00"))
    one = net.reconstruct(images, mask_ratio=0.5)
    assert one.reconstruction.shape == (3, 28, 28, 1) and one.mask.mean() == pytest.approx(25 / 49)
    assert len(repr(one)) < 200 and one.plot().axes
    with pytest.raises(UserError, match="preprocess"):
        net.reconstruct(pixels())
    with pytest.raises(UserError, match="mask_ratio"):
        net.reconstruct(images, mask_ratio=1.0)


def test_a_larger_picture_is_completed_in_tiles(net):
    images = net.preprocess(pixels(2, side=56), tiles=2)
    assert images.shape == (2, 56, 56, 1)
    whole = net.reconstruct(images, mask_ratio=0.5)
    corners = np.stack([images[i, y : y + 28, x : x + 28] for i in (0, 1) for y in (0, 28) for x in (0, 28)])
    parts = net.reconstruct(corners, mask_ratio=0.5)  # the same eight tiles with the same masks
    np.testing.assert_allclose(whole.masked_mse_B, parts.masked_mse_B.reshape(2, 4).mean(1), rtol=1e-5)
    for name in ("original", "mask", "reconstruction", "prediction"):
        np.testing.assert_allclose(getattr(whole, name)[1, 28:, :28], getattr(parts, name)[6], atol=1e-5)
    with pytest.raises(UserError, match="tiles of 28 x 28"):
        net.reconstruct(np.pad(images, [(0, 0), (0, 4), (0, 4), (0, 0)]))
    with pytest.raises(UserError, match="tiles=0"):
        net.preprocess(pixels(1), tiles=0)


def test_errors_in_python_name_arguments(net):
    with pytest.raises(UserError, match=r"^images=nowhere\.png: there is no file"):
        crate_jax.reconstruct(net, images="nowhere.png")


@pytest.mark.parametrize("name", ["folder", "x.safetensors", "x.pth"])
def test_what_is_saved_opens_as_the_same_network(net, tmp_path, name):
    if name.endswith("pth"):
        pytest.importorskip("torch")
    net.save(tmp_path / name)
    again = crate_jax.from_pretrained(tmp_path / name)
    images = net.preprocess(pixels())
    np.testing.assert_allclose(again.features(images), net.features(images), atol=1e-6)
    np.testing.assert_array_equal(again.preprocess(pixels()), images)  # the run's own statistics
    if name == "folder":
        assert again.config.data.name == "embedded_digits" and again.subject.identity == net.subject.identity
        assert "identity of the parameters" in (tmp_path / name / "README.md").read_text()
        out = tmp_path / "out"
        assert main(["convert", "--to=safetensors", str(tmp_path / name), str(out / "y.safetensors")]) == 0
        small = ["--features=cls@last", "--config.data.train_split=train[:99]"]
        small += ["--config.data.validation_split=test[:20]", f"--out={out}"]
        for config in (["--config=quickstart_digits"], []):  # its own lies beside it
            assert main(["knn", f"--checkpoint={tmp_path / name}", *config, *small]) == 0
            assert json.loads((out / "knn.json").read_text())["source"]["parameters"] == net.subject.identity
            (out / "knn.json").unlink()


def test_a_config_beside_a_network_says_how_it_was_trained(net, tmp_path):
    net.save(tmp_path / "net")
    described = json.loads((tmp_path / "net" / "config.json").read_text())
    described["norm_pix_loss"], described["data"]["mean"], described["data"]["std"] = True, [0.3], [0.2]
    (tmp_path / "net" / "config.json").write_text(json.dumps(described))
    for config in (None, crate_jax.load_config("quickstart_digits")):
        found = of_checkpoint(tmp_path / "net", config)
        assert found.config.norm_pix_loss and found.statistics == ((0.3,), (0.2,))
    mean = [("data.mean", 0.4)]
    given = of_checkpoint(tmp_path / "net", crate_jax.load_config("quickstart_digits", mean), overrides=mean)
    assert given.statistics == ((0.4,), (0.2,))


def test_official_tensors_in_an_npz(net, tmp_path):
    from safetensors.numpy import load_file

    net.save(tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", **load_file(tmp_path / "x.safetensors"))
    again = crate_jax.from_pretrained(tmp_path / "x.npz", num_heads=2, lambda_=net.model.lambda_)
    images = net.preprocess(pixels())
    np.testing.assert_allclose(again.features(images), net.features(images), atol=1e-6)
    (tmp_path / "y.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"y.npz is no"):
        crate_jax.from_pretrained(tmp_path / "y.npz")


def test_a_run_whose_storage_fails_is_not_taken_at_an_older_step(workdir, tmp_path, monkeypatch):
    shutil.copytree(workdir, run := tmp_path / "run")
    (newest,) = (run / "checkpoints").glob("[0-9]*")
    shutil.copytree(newest, newest.parent / str(int(newest.name) - 1))
    restore = ocp.CheckpointManager.restore

    def fails(self, step, **settings):
        if step == self.latest_step():
            raise OSError(5, "Input/output error")
        return restore(self, step, **settings)

    assert crate_jax.from_pretrained(run).subject.step == int(newest.name)
    monkeypatch.setattr(ocp.CheckpointManager, "restore", fails)
    with pytest.raises(UserError, match="cannot be read now"):
        crate_jax.from_pretrained(run)


def test_a_network_that_ships_and_one_from_the_hub(net, tmp_path, monkeypatch):
    monkeypatch.setattr(named_networks, "NETWORKS", tmp_path)
    net.save(tmp_path / "digits")
    assert crate_jax.list_networks() == ["digits"]
    assert crate_jax.from_pretrained("digits").subject.identity == net.subject.identity
    assert of_checkpoint("digits").identity == net.subject.identity  # --checkpoint=digits
    with pytest.raises(UserError, match="did you mean digits"):
        crate_jax.from_pretrained("digit")
    asked = []

    def snapshot_download(name, revision=None, endpoint=None):
        asked.append((name, revision))
        if name != "org/digits":
            raise OSError(f"404: no repository {name}")
        return str(tmp_path / "digits")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    assert crate_jax.from_pretrained("hf://org/digits@v1").subject.identity == net.subject.identity
    assert asked == [("org/digits", "v1")]
    with pytest.raises(UserError, match="no repository org/x"):
        crate_jax.from_pretrained("hf://org/x")
    with pytest.raises(UserError, match="hf://ORG/NAME"):
        crate_jax.from_pretrained("hf://digits")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"crate-jax\[hub\]"):
        crate_jax.from_pretrained("hf://org/digits")


def test_a_network_goes_to_the_hub_and_comes_back(net, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    with hub.serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        assert server.url in net.push_to_hub("org/digits", token="hf_right", endpoint=server.url)
        held = server.files["org/digits"]
        assert set(held) == {"README.md", "config.json", "model.json", "params.safetensors"}
        assert net.subject.identity in held["README.md"].decode()
        again = crate_jax.from_pretrained("hf://org/digits")
        assert again.subject.identity == net.subject.identity and again.config.data.name == "embedded_digits"
        with pytest.raises(UserError, match=r"push_to_hub\('org/digits'\): "):
            net.push_to_hub("org/digits", token="hf_wrong", endpoint=server.url)
        with pytest.raises(UserError, match=r"hf://org/nothing: .*404"):
            crate_jax.from_pretrained("hf://org/nothing")


def test_what_a_file_holds_counts_over_a_config_file(data_folder, tmp_path):
    pytest.importorskip("torch")
    from crate_jax.config import load_config
    from crate_jax.evaluation.subject import of_checkpoint

    file = data_folder / "official_crate_mae_d48.pth"
    config = load_config("quickstart")  # width 128, 32 pixels in patches of 4
    with pytest.raises(UserError, match="num_heads"):
        crate_jax.from_pretrained(file)
    found = of_checkpoint(file, config, tmp_path, overrides=[("model.num_heads", 3)])
    model, _ = crate_jax.load_torch_checkpoint(file, num_heads=3)
    assert (found.model.width, found.model.patch_size, found.model.image_size) == (
        48,
        model.patch_size,
        model.image_size,
    )
    assert found.config.model.width == 48 and found.config.data.name == "embedded_photographs"
    assert crate_jax.from_pretrained(file, num_heads=3).model.num_heads == 3
    with pytest.raises(UserError, match="width"):
        overrides = [("model.num_heads", 3), ("model.width", 96)]
        of_checkpoint(file, load_config("quickstart", overrides), tmp_path, overrides=overrides)


def test_evaluations_are_functions_that_write_nothing(net, workdir, tmp_path, monkeypatch):
    monkeypatch.setattr("crate_jax.evaluation.reconstruct.RATIOS", (0.75,))
    before = sorted(path for path in workdir.rglob("*") if path.suffix in (".json", ".png"))
    result = crate_jax.probe(net, features="cls@last", shots=(1,), baselines=())
    assert 0 <= result.accuracy <= 1 and result.numbers["accuracy"] == result.accuracy and len(repr(result)) < 300
    assert result.tables["classes"] and result.plot().axes and result.plot("probe_confusion").axes
    near = crate_jax.knn(net, features="cls@last", k=3)
    pictures = crate_jax.reconstruct(net, limit=4)
    assert pictures.images == 4 and "masked_psnr" in dir(pictures) and near.k == 3
    assert before == sorted(path for path in workdir.rglob("*") if path.suffix in (".json", ".png"))
    assert json.loads(near.save(tmp_path).read_text())["accuracy"] == near.accuracy
    assert (tmp_path / "figures" / "knn.png").stat().st_size > 5000


def test_names_are_there_and_importing_them_costs_nothing():
    assert "crate_mae_base" in crate_jax.list_models() and "quickstart" in crate_jax.list_configs()
    assert crate_jax.default_config().batch_size == 128
    assert all(getattr(crate_jax, name) is not None for name in dir(crate_jax))
    code = "import sys, crate_jax; print({'jax', 'numpy', 'flax'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_an_editor_sees_every_public_name():
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(crate_jax))
    (typing,) = (node for node in tree.body if isinstance(node, ast.If))
    found = {(one.module, alias.name) for one in typing.body for alias in one.names}
    assert found == {(module, name) for module, names in crate_jax._PUBLIC.items() for name in names}
