"""Checkpoint files as training scripts leave them: wrappers, prefixes, settings beside the tensors, odd types, NaN."""

import collections
import json
import pathlib
import struct
import sys
import types

import ml_dtypes
import numpy as np
import pytest

from crate_jax.errors import UserError
from crate_jax.interop.checkpoint_file import open_checkpoint
from crate_jax.interop.state_dicts import bare_names
from crate_jax.interop.tensor_files import open_tensors, write_safetensors

DATA = pathlib.Path(__file__).parents[1] / "data"
GOLDEN = DATA / "official_crate_mae_d48.safetensors"


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def state(torch):
    return torch.load(DATA / "official_crate_mae_d48.pth", weights_only=True)["model"]


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def same_as_golden(path):
    ours, golden = open_tensors(path), open_tensors(GOLDEN)
    assert ours.shapes == golden.shapes
    for name in list(ours.shapes)[:3]:
        np.testing.assert_array_equal(ours.read(name), golden.read(name))


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "encoder.", "module.", "module.module.", "net.", "student.",
                                    "model.backbone.", "_orig_mod.", "_forward_module.model."])  # fmt: skip
def test_prefixes(torch, state, tmp_path, prefix):
    torch.save({"state_dict": prefixed(state, prefix)}, tmp_path / "x.pth")
    same_as_golden(tmp_path / "x.pth")


@pytest.mark.parametrize("keys", [("model_ema",), ("state_dict_ema",), ("module",), ("model_state_dict",), ("ema",),
                                  ("checkpoint", "model"), ("anything",)])  # fmt: skip
def test_wrappers(torch, state, tmp_path, keys):
    content = collections.OrderedDict(state)
    for key in reversed(keys):
        content = {
            "epoch": 3,
            key: content,
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
            "loss": torch.ones(()),
        }
    torch.save(content, tmp_path / "x.ckpt")
    same_as_golden(tmp_path / "x.ckpt")


def test_the_network_is_read_before_its_mean(torch, state, tmp_path, caplog):
    ema = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"model_ema": ema, "model": state}, tmp_path / "x.pth")
    same_as_golden(tmp_path / "x.pth")
    torch.save({"state_dict": prefixed(ema, "teacher.") | prefixed(state, "student.")}, tmp_path / "y.pth")
    same_as_golden(tmp_path / "y.pth")
    assert "model is read" in caplog.text and "'student.' is read" in caplog.text
    torch.save({"a": state, "b": ema}, tmp_path / "z.pth")
    with pytest.raises(UserError, match=r"several state dicts \(a, b\)"):
        open_tensors(tmp_path / "z.pth")
    torch.save(prefixed(state, "one.") | prefixed(ema, "two."), tmp_path / "z.pth")
    with pytest.raises(UserError, match=r"several networks \(one\., two\.\)"):
        open_tensors(tmp_path / "z.pth")


def test_names_of_compilers_and_sharding():
    names = [
        "module._orig_mod.blocks.0._fsdp_wrapped_module.norm.weight",
        "module._orig_mod.cls_token",
        "x._extra_state",
    ]
    assert list(bare_names(names, "f")) == ["blocks.0.norm.weight", "cls_token"]
    with pytest.raises(UserError, match="have one meaning"):
        bare_names(["a", "module.a"], "f")


def test_settings_beside_the_tensors(torch, state, tmp_path, monkeypatch):
    module = types.ModuleType("pytorch_lightning.utilities.parsing")
    module.AttributeDict = type(
        "AttributeDict", (dict,), {"__module__": module.__name__, "__qualname__": "AttributeDict"}
    )
    for name in ("pytorch_lightning", "pytorch_lightning.utilities", module.__name__):
        monkeypatch.setitem(sys.modules, name, module if name == module.__name__ else types.ModuleType(name))
    content = {
        "state_dict": prefixed(state, "model.") | {"model._extra_state": None},
        "hyper_parameters": module.AttributeDict(lr=1e-3, betas=[0.9, 0.95]),
        "best": np.float64(0.8), "steps": np.int64(3), "curve": np.arange(3.0), "names": np.array(["a", "b"]),
        "where": pathlib.PurePosixPath("/data"), "groups": collections.defaultdict(list, a=[1]), "kind": int,
    }  # fmt: skip
    torch.save(content, tmp_path / "x.ckpt")
    monkeypatch.undo()
    same_as_golden(tmp_path / "x.ckpt")
    torch.save(content["state_dict"], tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    same_as_golden(tmp_path / "old.pth")


def test_arrays_in_the_place_of_tensors(torch, state, tmp_path):
    torch.save({name: tensor.numpy() for name, tensor in state.items()}, tmp_path / "x.pth")
    same_as_golden(tmp_path / "x.pth")


def test_maes_linear_probe_is_one_head(torch, tmp_path):
    generator = torch.Generator().manual_seed(0)
    norm, linear = torch.nn.BatchNorm1d(8, affine=False, eps=1e-6), torch.nn.Linear(8, 5)
    norm.running_mean.normal_(generator=generator)
    norm.running_var.uniform_(0.1, 3, generator=generator)
    head = torch.nn.Sequential(norm, linear).eval()
    torch.save({"model": {f"head.{name}": tensor for name, tensor in head.state_dict().items()}}, tmp_path / "x.pth")
    source = open_tensors(tmp_path / "x.pth")
    assert source.shapes == {"head.weight": (5, 8), "head.bias": (5,)}
    x = torch.randn(3, 8, generator=generator)
    ours = x.numpy() @ source.read("head.weight").T + source.read("head.bias")
    np.testing.assert_allclose(ours, head(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_nan_is_refused_by_name(torch, tmp_path, value, ending):
    array = np.array([[0, value], [1, 2]], np.float32)
    path = tmp_path / f"x.{ending}"
    if ending == "pth":
        torch.save({"a": torch.zeros(2), "b.weight": torch.from_numpy(array).bfloat16()}, path)
    else:
        write_safetensors(path, {"a": (2,), "b.weight": (2, 2)}, {"a": np.zeros(2), "b.weight": array}.get, {})
    source = open_tensors(path)
    assert source.read("a").tolist() == [0, 0]
    with pytest.raises(UserError, match=r"tensor b\.weight holds 1 of 4 values that are NaN or infinite"):
        source.read("b.weight")


def raw_safetensors(path, kind, content, shape, metadata=None):
    header = {"x": {"dtype": kind, "shape": shape, "data_offsets": [0, len(content)]}}
    header |= {"__metadata__": metadata} if metadata else {}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return open_tensors(path)


KINDS = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "BF16": ml_dtypes.bfloat16,
         "F16": "<f2", "F64": "<f8", "I64": "<i8", "U8": "u1"}  # fmt: skip


@pytest.mark.parametrize(("kind", "dtype"), KINDS.items())
def test_types_of_safetensors(tmp_path, kind, dtype):
    values = np.array([[0, 1, 2], [4, 8, 16]]).astype(dtype)
    source = raw_safetensors(tmp_path / "X.SAFETENSORS", kind, values.tobytes(), [2, 3])
    assert source.read("x").tolist() == [[0, 1, 2], [4, 8, 16]] and source.read("x").dtype == np.float32


def test_types_that_are_not_read(tmp_path):
    source = raw_safetensors(tmp_path / "x.safetensors", "C64", bytes(16), [2])
    with pytest.raises(UserError, match="tensor x is of type C64; save it as F32"):
        source.read("x")


@pytest.mark.parametrize(
    "text", ["yes", "[1]", '"x"', '{"name": 3}', '{"name": "a"}', '{"name": "a", "overrides": []}', "null"]
)
def test_foreign_metadata_under_our_key(tmp_path, caplog, text):
    source = raw_safetensors(tmp_path / "x.safetensors", "U8", b"\1", [1], {"crate_jax": text})
    assert source.description == {} and source.read("x").tolist() == [1] and "is not ours" in caplog.text


def test_a_program_of_torchscript_is_named(torch, tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "x.pt")
    with pytest.raises(UserError, match="is a TorchScript program, and no program in a file is run"):
        open_tensors(tmp_path / "x.pt")


def test_damaged_archives_of_numpy(tmp_path):
    random = np.random.default_rng(0)
    np.savez_compressed(tmp_path / "x.npz", a=random.normal(size=(50, 20)), z=np.array([1j]))
    content = (tmp_path / "x.npz").read_bytes()
    with pytest.raises(UserError, match="array z cannot be read"):
        open_tensors(tmp_path / "x.npz").read("z")
    listed = content.index(b"PK\1\2") + 8  # whether names are UTF-8 is bit 11 of two bytes there
    names = (content[: listed + 1] + b"\x08" + content[listed + 2 :]).replace(b"a.npy", b"\xbf.npy")
    (tmp_path / "z.npz").write_bytes(names)
    with pytest.raises(UserError, match="no readable NumPy archive"):  # with PyTorch and without
        open_tensors(tmp_path / "z.npz")
    for _ in range(15):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[random.integers(0, len(damaged), 3)] = random.integers(0, 256, 3)
        (tmp_path / "y.npz").write_bytes(damaged.tobytes()[: random.integers(1, 2 * len(damaged))])
        try:
            source = open_tensors(tmp_path / "y.npz")
            for name in source.shapes:
                source.read(name)
        except UserError as error:
            assert "\n" not in str(error)


def test_the_content_says_what_a_file_is(torch, tmp_path):
    (tmp_path / "model.bin").write_bytes(GOLDEN.read_bytes())
    same_as_golden(tmp_path / "model.bin")
    torch.save({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    assert open_tensors(tmp_path / "x.safetensors").read("a").tolist() == [1]
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(UserError, match="git lfs pull"):
        open_tensors(tmp_path / "lfs.pth")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(UserError, match="is no regular file"):
        open_tensors(tmp_path / "folder.pth")


@pytest.mark.parametrize("prefix", ["", "model."])
def test_several_files_and_their_index(tmp_path, prefix):
    golden = open_tensors(GOLDEN)
    names, placed = list(golden.shapes), {}
    for number in range(2):
        part = names[number::2]
        shapes = {prefix + name: golden.shapes[name] for name in part}
        write_safetensors(tmp_path / f"{number}.safetensors", shapes, lambda n: golden.read(n.removeprefix(prefix)), {})
        placed |= dict.fromkeys(shapes, f"{number}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    same_as_golden(index)
    assert open_checkpoint(tmp_path, {"num_heads": 3}).model.width == 48  # a folder as the hub has it
    index.write_text(json.dumps({"weight_map": placed | {"x": "0.safetensors"}}))
    with pytest.raises(UserError, match="names 1 tensors that its files do not hold, such as x"):
        open_tensors(index)
    index.write_text("[]")
    with pytest.raises(UserError, match="does not say in which file each tensor is"):
        open_tensors(index)


def test_all_that_is_missing_strange_or_of_another_shape_is_named_once(tmp_path):
    golden = open_tensors(GOLDEN)
    blocks = [name for name in golden.shapes if name.startswith("blocks.1.")]

    def refusal(shapes):
        arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        write_safetensors(tmp_path / "x.safetensors", shapes, arrays.get, {})
        with pytest.raises(UserError) as error:
            open_checkpoint(tmp_path / "x.safetensors", {"num_heads": 3})
        return str(error.value)

    rest = {name: shape for name, shape in golden.shapes.items() if name not in blocks[2:]}
    assert f"tensors {', '.join(blocks[2:7])}" in refusal(rest)
    assert f" are missing, {len(blocks) - 2} of the " in refusal(rest)
    strange = golden.shapes | {"one": (2,), "two": (3,)}
    assert "tensors one, two belong to no crate_mae_" in refusal(strange)
    other = golden.shapes | {"norm.weight": (3,), "norm.bias": (3,)}
    assert "tensor norm.weight has shape (3,)" in refusal(other) and "and 1 more do not fit" in refusal(other)
