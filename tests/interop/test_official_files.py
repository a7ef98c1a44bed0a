"""Official files in and out, any wrapping, bit by bit; what is no such file is refused in one sentence."""

import argparse
import io
import os
import pathlib

import numpy as np
import pytest

from crate_jax.cli.main import main
from crate_jax.errors import UserError
from crate_jax.interop.checkpoint_file import load_torch_checkpoint
from crate_jax.interop.export import warn_of_options
from crate_jax.interop.tensor_files import open_tensors, write_safetensors
from crate_jax.models.registry import create_model

DATA = pathlib.Path(__file__).parents[1] / "data"
GOLDEN = DATA / "official_crate_mae_d48.safetensors"
UNUSED = {"pos_embed", "decoder_pos_embed", "decoder_embed.weight", "decoder_embed.bias"}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def state(torch):
    return torch.load(DATA / "official_crate_mae_d48.pth", weights_only=True)["model"]


def convert(to, source, target, *more):
    assert main(["convert", f"--to={to}", str(source), str(target), *more]) == 0


def same_bits(path, other):
    ours, theirs = open_tensors(path), open_tensors(other)
    assert ours.shapes == theirs.shapes
    for name in ours.shapes:
        assert ours.read(name).tobytes() == theirs.read(name).tobytes(), name


def test_there_and_back_without_torch(tmp_path):
    convert("flax", GOLDEN, tmp_path / "flax", "--num_heads=3", "--lambda_=0.25")
    assert {path.name for path in (tmp_path / "flax").iterdir()} == {
        "model.json", "params.safetensors", "carried.safetensors"
    }  # fmt: skip
    convert("safetensors", tmp_path / "flax", tmp_path / "back.safetensors")
    same_bits(tmp_path / "back.safetensors", GOLDEN)
    for path in (tmp_path / "flax", tmp_path / "back.safetensors"):
        model, params = load_torch_checkpoint(path)  # what no tensor holds is written beside them
        assert (model.num_heads, model.lambda_, model.image_size, model.patch_size) == (3, 0.25, 32, 8)
        assert params["encoder"]["compression"]["attention"]["subspaces"].shape == (2, 48, 48)
    assert load_torch_checkpoint(tmp_path / "flax", lambda_=5.0, dtype="bfloat16")[0].lambda_ == 5.0


def test_there_and_back_with_torch(torch, state, tmp_path):
    convert("flax", DATA / "official_crate_mae_d48.pth", tmp_path / "flax", "--num_heads=3")
    convert("torch", tmp_path / "flax", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert set(back) == set(state) and all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("how", ["plain", "state_dict", "module", "before_1.6", "half", "with_options"])
def test_any_wrapping(torch, state, tmp_path, how):
    path, wrapped = tmp_path / "any.pth", state
    if how == "state_dict":
        wrapped = {"epoch": 3, "state_dict": state, "optimizer": {"param_groups": [{"lr": 0.1}]}}
    if how == "module":
        wrapped = {"model": {f"module.{name}": tensor for name, tensor in state.items()}}
    if how == "half":
        wrapped = {name: tensor.half() for name, tensor in state.items()}
    if how == "with_options":
        wrapped = {"model": state, "args": argparse.Namespace(lr=1e-3)}
    torch.save(wrapped, path, _use_new_zipfile_serialization=how != "before_1.6")
    _, params = load_torch_checkpoint(path, num_heads=3)
    golden = load_torch_checkpoint(GOLDEN, num_heads=3)[1]
    dictionary = ("encoder", "sparsification", "dictionary")
    for key in dictionary:
        params, golden = params[key], golden[key]
    np.testing.assert_allclose(params, golden, rtol=1e-3 if how == "half" else 0, atol=1e-6 if how == "half" else 0)


def broken(torch, state, kind, path):
    """A file that must be refused, and what its sentence has to name."""

    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch {path}.owned",)

    if kind == "malicious":
        torch.save({"model": {**state, "extra": Malicious()}}, path)
        return "code"
    if kind == "malicious_before_1.6":
        torch.save({"model": Malicious()}, path, _use_new_zipfile_serialization=False)
        return "code"
    if kind == "truncated":
        torch.save(state, buffer := io.BytesIO())
        path.write_bytes(buffer.getvalue()[:60_000])
        return "whole"
    if kind == "other_network":
        torch.save({"conv1.weight": torch.zeros(4, 3, 7, 7), "fc.weight": torch.zeros(2, 4)}, path)
        return "conv1.weight"
    if kind == "extra_tensor":
        torch.save({**state, "head.bias": torch.zeros(3)}, path)
        return "head.bias"
    if kind == "missing":
        name = "decoder_blocks.1.layers.0.1.fn.to_out.0.bias"
        torch.save({key: tensor for key, tensor in state.items() if key != name}, path)
        return name
    if kind == "shape":
        name = "blocks.1.layers.0.1.fn.weight"
        torch.save({**state, name: torch.zeros(48, 47)}, path)
        return name
    if kind == "table":
        torch.save({**state, "decoder_pos_embed": torch.randn(1, 17, 48)}, path)
        return "decoder_pos_embed"
    if kind == "no_tensor":
        torch.save({"model": {**state, "step": 3}}, path)
        return "'step'"
    path.write_text("<html>quota exceeded</html>")
    return "no PyTorch file"


@pytest.mark.parametrize("kind", ["malicious", "malicious_before_1.6", "truncated", "other_network", "extra_tensor",
                                  "missing", "shape", "table", "no_tensor", "web_page"])  # fmt: skip
def test_refused_in_one_sentence(torch, state, tmp_path, capsys, kind):
    path = tmp_path / "file.pth"
    named = broken(torch, state, kind, path)
    assert main(["convert", "--to=flax", "--num_heads=3", str(path), str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("crate-jax: ") and named in said and said.count("\n") == 1 and "weights_only" not in said
    assert not (tmp_path / "out").exists() and not pathlib.Path(f"{path}.owned").exists()


def test_broken_safetensors(tmp_path, capsys):
    whole = GOLDEN.read_bytes()
    for cut, name in ((100, "header.safetensors"), (len(whole) - 8, "data.safetensors")):
        (tmp_path / name).write_bytes(whole[:cut])
        assert main(["convert", "--to=flax", str(tmp_path / name), str(tmp_path / "out")]) == 1
        assert "no readable safetensors" in capsys.readouterr().err


def test_what_no_tensor_holds_is_asked_for(capsys, tmp_path):
    assert main(["convert", "--to=flax", str(GOLDEN), str(tmp_path / "out")]) == 1
    assert "num_heads" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"blocks\.2\."):
        load_torch_checkpoint(GOLDEN, num_heads=3, depth=3)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"model\.json"):
        load_torch_checkpoint(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    assert main(["convert", "--to=flax", "--num_heads=3", str(GOLDEN), str(tmp_path / "mine")]) == 1
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_a_failed_write_leaves_nothing(tmp_path):
    def read(name):
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        write_safetensors(tmp_path / "x.safetensors", {"a": (2,)}, read, {})
    assert not list(tmp_path.iterdir())


def test_what_the_official_class_computes_otherwise_is_said(caplog):
    warn_of_options(create_model("crate_mae_tiny"))
    assert not caplog.text
    for option in ({"compression": "gradient"}, {"compression_step": "subtract"}):
        warn_of_options(create_model("crate_mae_tiny", **option))
        assert "The official class has no {}={}".format(*option.popitem()) in caplog.messages[-1]
