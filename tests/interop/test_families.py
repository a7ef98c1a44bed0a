"""Every family of official networks: bit by bit, and against the code that made them where it is installed."""

import importlib.util
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from crate_jax.cli.main import main
from crate_jax.errors import UserError
from crate_jax.evaluation.subject import of_checkpoint
from crate_jax.interop.checkpoint_file import ParamsCheckpoint, load_torch_checkpoint, open_checkpoint, write_folder
from crate_jax.interop.export import write_official
from crate_jax.interop.network import parameter_shapes, stacked
from crate_jax.interop.tensor_files import open_tensors
from crate_jax.interop.torch_checkpoint import OfficialCheckpoint
from crate_jax.models.registry import create_model
from crate_jax.operators.masking import example_masks

SMALL = {"width": 32, "num_heads": 2, "depth": 2, "image_size": 32, "patch_size": 8}
NETWORKS = {
    "crate_mae_tiny": {**SMALL, "decoder_depth": 1, "lambda_": 5.0},
    "vit_mae_small": {**SMALL, "decoder_depth": 1, "decoder_width": 16, "decoder_num_heads": 2},
    "crate_tiny": {**SMALL, "num_classes": 5},
    "vit_classifier_small": {**SMALL, "num_classes": 5, "learned_positions": True, "pooling": "mean"},
}


def flat(params):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def random_params(model):
    """Small numbers everywhere; nothing is compiled."""
    draw = np.random.default_rng(0).normal
    paths = {path: np.float32(draw(0, 0.1, shape)) for path, shape in parameter_shapes(model).items()}
    return stacked(paths)


@pytest.fixture(scope="module")
def parity():
    """benchmarks/parity.py: the official code's stand-in for timm, and transformers' names."""
    for name in ("torch", "einops"):
        pytest.importorskip(name)
    path = pathlib.Path(__file__).parents[2] / "benchmarks" / "parity.py"
    spec = importlib.util.spec_from_file_location("parity", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NETWORKS)
def test_out_and_in_again(tmp_path, name):
    """Parameters come back bit by bit; heads, lambda and options travel beside the tensors."""
    settings = NETWORKS[name]
    model = create_model(name, **settings)
    params = random_params(model)
    write_official(ParamsCheckpoint(model, params, name, settings), tmp_path / "out.safetensors", "safetensors")
    again, loaded = load_torch_checkpoint(tmp_path / "out.safetensors")
    assert again == model
    assert all(leaf.tobytes() == flat(loaded)[key].tobytes() for key, leaf in flat(params).items())


@pytest.mark.parametrize("name", NETWORKS)
def test_recognised_by_its_tensors_alone(tmp_path, name):
    """As an official file has it: no description, and heads by width."""
    wide = {**NETWORKS[name], "width": 192, "num_heads": 3, "depth": 1}
    if "decoder_width" in wide:
        wide |= {"decoder_width": 512, "decoder_num_heads": 16}
    wide.pop("lambda_", None)
    model = create_model(name, **wide)
    checkpoint = ParamsCheckpoint(model, random_params(model), name, wide)
    write_official(checkpoint, tmp_path / "out.safetensors", "safetensors")
    source = open_tensors(tmp_path / "out.safetensors")
    source.description = {}
    found = OfficialCheckpoint(source, {})
    assert found.model == model and create_model(found.name, **found.overrides) == model


@pytest.mark.parametrize("form", ["file", "folder"])
@pytest.mark.parametrize("name", NETWORKS)
def test_rectangular_images_and_larger_ones(tmp_path, name, form):
    """What is read at another image size has the positions that it was trained with, resized."""
    settings = {**NETWORKS[name], "image_size": (32, 48)}
    model = create_model(name, **settings)
    checkpoint, path = ParamsCheckpoint(model, random_params(model), name, settings), tmp_path / "out"
    write_folder(checkpoint, path) if form == "folder" else write_official(checkpoint, path, "safetensors")
    assert load_torch_checkpoint(path)[0] == load_torch_checkpoint(path, image_size=(32, 48))[0] == model
    larger = load_torch_checkpoint(path, image_size=(64, 96))[0]
    assert larger == model.clone(image_size=(64, 96), table_image_size=(32, 48))
    if form == "file":  # as others write it, without a description
        source = open_tensors(path)
        source.description = {}
        with pytest.raises(UserError, match="HEIGHTxWIDTH"):
            OfficialCheckpoint(source, {})
        heads = {key: value for key, value in settings.items() if key.endswith("num_heads")}
        found = OfficialCheckpoint(source, {"image_size": (32, 48), **heads}).model
        assert (found.image_size, found.table_image_size) == ((32, 48), None)


@pytest.mark.parametrize("kind", ["tied", "transposed", "fixed", "identity"])
def test_an_output_projection_is_written_as_what_it_computes(tmp_path, kind):
    """Of all but the tied one U was written, so the official class computed something else, and the fixed was lost."""
    settings = {**NETWORKS["crate_mae_tiny"], "output_projection": kind, "mask_mode": "zero"}
    model = create_model("crate_mae_tiny", **settings)
    params = random_params(model)
    write_official(
        ParamsCheckpoint(model, params, "crate_mae_tiny", settings), tmp_path / "t.safetensors", "safetensors"
    )
    official, learned = load_torch_checkpoint(
        tmp_path / "t.safetensors", output_projection="learned", mask_mode="token"
    )
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    expected = jax.jit(model.apply)({"params": params}, images).prediction_BxNxF
    np.testing.assert_allclose(
        jax.jit(official.apply)({"params": learned}, images).prediction_BxNxF, expected, atol=1e-5
    )
    again, ours = load_torch_checkpoint(tmp_path / "t.safetensors")
    assert again == model and {k: v.tobytes() for k, v in flat(params).items()} == {
        k: v.tobytes() for k, v in flat(ours).items()
    }


@pytest.mark.parametrize("kind", ["tied", "transposed", "fixed"])
def test_a_projection_of_a_single_head_has_no_official_place(tmp_path, kind):
    settings = {**NETWORKS["crate_mae_tiny"], "num_heads": 1, "output_projection": kind}
    model = create_model("crate_mae_tiny", **settings)
    checkpoint = ParamsCheckpoint(model, random_params(model), "crate_mae_tiny", settings)
    with pytest.raises(UserError, match=f"output_projection='{kind}' with a single head"):
        write_official(checkpoint, tmp_path / "t.safetensors", "safetensors")


def test_a_scalar_of_each_layer_comes_back_as_one(tmp_path):
    """A learned kappa was read as a vector of one number: a saved crate_convex_mae ended in a traceback."""
    name, settings = "crate_convex_mae_tiny", {**SMALL, "decoder_depth": 1}
    model = create_model(name, **settings)
    params = random_params(model)
    write_folder(ParamsCheckpoint(model, params, name, settings), tmp_path / "out")
    again, loaded = load_torch_checkpoint(tmp_path / "out")
    assert again == model and jax.tree.map(np.shape, loaded) == jax.tree.map(np.shape, params)
    again.apply({"params": loaded}, np.zeros((1, 32, 32, 3), np.float32))


def test_encoder_only(tmp_path):
    """Meta's mae_pretrain_vit_base.pth: features work, completion is refused, and nothing is made up on disk."""
    settings = NETWORKS["vit_mae_small"]
    model = create_model("vit_mae_small", **settings)
    params = random_params(model)
    checkpoint = ParamsCheckpoint(model, params, "vit_mae_small", settings)
    checkpoint.encoder_only = True
    checkpoint.paths = [path for path in checkpoint.paths if not path.startswith(("decoder", "head", "mask_token"))]
    write_official(checkpoint, tmp_path / "encoder.safetensors", "safetensors")
    write_folder(open_checkpoint(tmp_path / "encoder.safetensors", {}), tmp_path / "flax")
    write_official(open_checkpoint(tmp_path / "flax", {}), tmp_path / "back.safetensors", "safetensors")
    assert not any("decoder" in name for name in open_tensors(tmp_path / "back.safetensors").shapes)
    again, loaded = load_torch_checkpoint(tmp_path / "flax")
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    latent = [jax.jit(m.apply)({"params": p}, images).latent_BxTxD for m, p in ((model, params), (again, loaded))]
    np.testing.assert_array_equal(*latent)
    with pytest.raises(UserError, match="encoder only"):
        of_checkpoint(tmp_path / "flax", with_decoder=True)


def test_fine_tuned_crate_mae_has_no_official_class(tmp_path):
    model = create_model("crate_classifier_tiny", **SMALL, num_classes=3)
    settings = {**SMALL, "num_classes": 3}
    checkpoint = ParamsCheckpoint(model, random_params(model), "crate_classifier_tiny", settings)
    with pytest.raises(UserError, match="no official class"):
        write_official(checkpoint, tmp_path / "x.safetensors", "safetensors")
    write_folder(checkpoint, tmp_path / "flax")
    assert load_torch_checkpoint(tmp_path / "flax")[0] == model


def test_meta_against_transformers(parity, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = parity.torch
    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, image_size=32, patch_size=8,
        decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, layer_norm_eps=1e-6,
        decoder_intermediate_size=64,
    )  # fmt: skip
    theirs = parity.with_tables(transformers.ViTMAEForPreTraining(config))
    model, params = parity.loaded(
        parity.meta_names(parity.perturb(theirs).state_dict()), tmp_path, num_heads=2, decoder_num_heads=2
    )
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    noise_BxN = np.random.default_rng(1).random((2, 16), np.float32)
    with torch.no_grad():
        result = theirs(torch.from_numpy(images), noise=torch.from_numpy(noise_BxN))
    mask_BxN = parity.mask_from_noise(jnp.asarray(noise_BxN), 4)
    output = jax.jit(model.apply)({"params": params}, jnp.asarray(images.transpose(0, 2, 3, 1)), mask_BxN)
    assert parity.error(output.prediction_BxNxF, result.logits) < 1e-5


@pytest.mark.parametrize("kind", ["crate_mae", "crate"])
def test_strict_in_the_official_class(parity, tmp_path, kind):
    """What we trained loads with strict=True and computes the same: needs a checkout, in CRATE_OFFICIAL."""
    checkout = os.environ.get("CRATE_OFFICIAL", "")
    if not (pathlib.Path(checkout) / "model" / "crate_ae").is_dir():
        pytest.skip("CRATE_OFFICIAL names no checkout of Ma-Lab-Berkeley/CRATE")
    torch = parity.torch
    crate, crate_ae = parity.import_official(checkout)
    name = f"{kind}_tiny"
    model = create_model(name)
    params = random_params(model)
    write_official(ParamsCheckpoint(model, params, name, {}), tmp_path / "ours.pth", "torch")
    file = torch.load(tmp_path / "ours.pth", weights_only=True)
    images = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    if kind == "crate":
        theirs = crate.CRATE_tiny().eval()
        theirs.load_state_dict(file["state_dict"], strict=True)
        ours = jax.jit(model.apply)({"params": params}, jnp.asarray(images.transpose(0, 2, 3, 1))).logits_BxC
        expected = theirs(torch.from_numpy(images))
    else:
        theirs = crate_ae.mae_crate_tiny().eval()
        theirs.load_state_dict(file["model"], strict=True)
        assert sum(tensor.numel() for tensor in file["model"].values()) == 11_555_328
        noise_BxN = np.random.default_rng(1).random((1, 196), np.float32)
        mask_BxN = parity.mask_from_noise(jnp.asarray(noise_BxN), 49)
        ours = jax.jit(model.apply)(
            {"params": params}, jnp.asarray(images.transpose(0, 2, 3, 1)), mask_BxN
        ).prediction_BxNxF
        with parity.fixed_noise(noise_BxN):
            expected = theirs(torch.from_numpy(images))[1]
    assert parity.error(ours, expected) < 1e-5


@pytest.mark.parametrize("name,official,published", [
    ("crate_mae_tiny", 11_555_328, None), ("crate_mae_small", 25_405_824, 25.4),
    ("crate_mae_base", 44_638_464, 44.6), ("crate_mae_large", 154_274_560, None),
    ("vit_mae_small", 47_578_240, 47.6), ("vit_mae_base_paper", 143_836_416, 143.8),
    ("crate_tiny", 6_090_856, 6.09), ("crate_small", 13_116_328, 13.12), ("crate_base", 22_796_008, 22.80),
    ("crate_large", 77_641_192, 77.64),
])  # fmt: skip
def test_counts_beside_the_published(capsys, name, official, published):
    """The official count is ours and the frozen tables and the unused layer; rounded, it is the published one."""
    assert main(["inspect", f"--model={name}"]) == 0
    said = capsys.readouterr().out
    assert int(re.search(r"^official +([\d,]+)$", said, re.M)[1].replace(",", "")) == official
    if published:
        assert f"{published} M" in said and abs(official / 1e6 - published) < 0.05
    assert ("D: ISTA's dictionary" in said) == name.startswith("crate")


@pytest.mark.parametrize(
    "name",
    ["tost_mae_tiny", "cbsa_mae_tiny", "crate_alpha_mae_small", "crate_convex_mae_tiny", "aot_mae_tiny", "tost_small"],
)
def test_a_network_without_an_official_class_is_inspected(capsys, name):
    assert main(["inspect", f"--model={name}"]) == 0
    said = capsys.readouterr().out
    assert "GFLOP per image" in said and not re.search("^official", said, re.M)
    step = {"tost": "tssa", "cbsa": "cbsa"}.get(name.partition("_")[0], "mssa")
    assert f"LayerNorm before compression ({step})" in said and ("query, key, value" in said) == (step == "mssa")


def test_the_picture_of_a_batch_has_the_masks_of_training(tmp_path):
    """They were random ones of model.mask_ratio, whatever masking.* said."""
    words = ["--config.masking.kind=grid", "--config.masking.ratio=0.5,0.75", "--config.masking.per=step"]
    assert main(["inspect", "--config=quickstart_digits", f"--out={tmp_path}", *words]) == 0
    picture = np.asarray(Image.open(tmp_path / "batch.png").convert("L"))[::3, ::3]  # 28 pixels, patches of 4
    for row, ratio in ((1, 0.5), (2, 0.75)):
        (expected_N,) = np.asarray(example_masks(jax.random.key(0), np.zeros(1, int), (7, 7), ratio, kind="grid"))
        for column in range(8):
            cut = picture[30 * row :, 30 * column :][:28, :28].reshape(7, 4, 7, 4)
            np.testing.assert_array_equal((cut == 128).all((1, 3)).ravel(), expected_N == 1)


def test_inspect_a_config(capsys, tmp_path):
    """Settings, shardings and FLOPs of a config whose data are not here; a misspelt setting is one sentence."""
    overrides = ["--config.model.mask_mode=drop", f"--config.data.data_dir={tmp_path}"]
    assert main(["inspect", "--config=imagenet_base", f"--out={tmp_path}", *overrides]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^official", said, re.M) and re.search(r"^  model\.width +768 ", said, re.M)
    assert "fsdp, tensor" in said and re.search(r"^\* model\.mask_mode +drop", said, re.M) and "no picture" in said
    rules = ["--config.mesh.rules=(('embed', None), ('pixels', ('data', 'fsdp')))", "--no-batch"]
    assert main(["inspect", "--config=imagenet_base", *rules]) == 0
    assert re.search(r"embedding_kernel .*data\+fsdp, - ", capsys.readouterr().out)  # by the config's own rules
    assert main(["inspect", "--model=crate_mae_base", "--config.model.width=96"]) == 0
    assert "official" not in capsys.readouterr().out  # nobody has a network of this size
    assert main(["inspect", "--model=crate_mae_base", "--config.model.widht=3"]) == 1
    assert "model.width" in capsys.readouterr().err
