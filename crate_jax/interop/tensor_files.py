"""Files of named tensors, read one at a time and never executed: `.safetensors`, and PyTorch's with weights_only.

A large network is never in memory twice: a source reads one array per call (PyTorch's files are mapped,
not read), and a sink takes one array at a time. Without PyTorch, `.safetensors` still works.
"""

import argparse
import codecs
import collections
import contextlib
import io
import json
import math
import os
import pathlib
import re
import struct
import warnings
import zipfile

import ml_dtypes
import numpy as np
import safetensors

from crate_jax.errors import UserError, first_line
from crate_jax.interop.state_dicts import OURS, bare_names, description_of, folded, state_of
from crate_jax.storage import exists, is_remote, own_mark
from crate_jax.storage_errors import user_errors

# safetensors' names; those of 8 bits are read as the numbers they are, without scales that a file may hold beside them
DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
# classes of settings that training scripts save beside the tensors; each is read as a dictionary, none is imported
SETTINGS = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.", "yacs.", "mmengine.", "mmcv.",
            "timm.", "detectron2.", "fvcore.", "addict.", "easydict.", "ml_collections.", "typing.", "enum.",
            "datetime.", "pathlib.", "types.SimpleNamespace", "argparse.", "collections.defaultdict", "uuid.",
            "builtins.", "__main__.")  # fmt: skip
PLAIN = ("int", "float", "str", "bool", "complex", "list", "tuple", "dict", "set", "frozenset", "slice", "range")
MOST_SETTINGS = 60  # different classes


class Source:
    """Named tensors of a file.

    Attributes:
        path: the file.
        shapes: name to shape.
        description: what a file of ours says of its network (`name`, `overrides`), or an empty dictionary.
    """

    def __init__(self, path, shapes, description):
        self.path, self.shapes, self.description = path, shapes, description

    def read(self, name):
        """One tensor, as float32.

        Raises:
            UserError: it cannot be read, or holds NaN or infinite values.
        """
        array = self._read(name)
        check_finite(array, name, self.path)
        return array

    def _read(self, name):
        raise TypeError(f"{type(self).__name__} does not say how to read {name}")


def check_finite(array, name, path):
    """Raises UserError where a tensor of a file or run holds NaN or infinite values: everything would be chance."""
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise UserError(
            f"{path}: tensor {name} holds {bad} of {array.size} values that are NaN or infinite, so its network "
            "computes nothing; take an earlier checkpoint, or fetch the file again."
        )


class SafetensorsSource(Source):
    """A `.safetensors` file. It is opened for every tensor, so that what was read of it does not stay mapped."""

    def __init__(self, path, bare=bare_names):
        try:
            with safetensors.safe_open(path, framework="numpy") as file:  # checks the header
                metadata = file.metadata() or {}
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                self.header, self.start = json.loads(file.read(length)), 8 + length
        except (safetensors.SafetensorError, OSError, ValueError, struct.error) as error:
            raise UserError(f"{path} is no readable safetensors file ({first_line(error)}); fetch it again.") from error
        self.header.pop("__metadata__", None)
        self.names = bare(self.header, path)
        shapes = {bare: tuple(self.header[name]["shape"]) for bare, name in self.names.items()}
        super().__init__(path, shapes, description_of(metadata.get(OURS), path))

    def _read(self, name):
        entry = self.header[self.names[name]]
        if entry["dtype"] not in DTYPES:
            raise UserError(f"{self.path}: tensor {name} is of type {entry['dtype']}; save it as F32, F16 or BF16.")
        first, last = entry["data_offsets"]
        try:
            with self.path.open("rb") as file:
                file.seek(self.start + first)
                content = np.frombuffer(file.read(last - first), DTYPES[entry["dtype"]])
            return np.asarray(content.reshape(entry["shape"]), np.float32)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path}: tensor {name} cannot be read ({first_line(error)})") from error


class NumpySource(Source):
    """A `.npz` of named arrays; objects in it are never unpickled."""

    def __init__(self, path):
        shapes = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in archive.namelist():
                    with archive.open(entry) as file:
                        version = np.lib.format.read_magic(file)
                        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                            version, np.lib.format.read_array_header_2_0
                        )
                        shapes[entry.removesuffix(".npy")] = read(file)[0]
        except Exception as error:  # zlib, zipfile and NumPy's reader of headers raise what they stumble over
            raise UserError(f"{path} is no readable NumPy archive ({first_line(error)}); fetch it again.") from error
        super().__init__(path, shapes, {})

    def _read(self, name):
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                array = archive[name]
            if array.dtype.kind == "c":
                raise ValueError("complex numbers")
            return np.asarray(array, np.float32)
        except Exception as error:  # as above
            raise UserError(f"{self.path}: array {name} cannot be read ({first_line(error)})") from error


class TorchSource(Source):
    """A file of PyTorch's, unwrapped; only tensors and plain values are loaded."""

    def __init__(self, path, bare=bare_names):
        state, description = state_of(_load_torch(path), path)
        self.tensors = {short: state[name] for short, name in bare(state, path).items()}
        super().__init__(path, {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}, description)

    def _read(self, name):
        tensor = self.tensors[name]
        try:
            if isinstance(tensor, np.ndarray):
                return np.asarray(tensor, np.float32)
            if tensor.is_complex():
                raise ValueError("complex numbers")
            if tensor.is_quantized:
                tensor = tensor.dequantize()
            return tensor.detach().to_dense().float().numpy()
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"{self.path}: tensor {name} cannot be read ({first_line(error)})") from error


class Shards(Source):
    """Several files, and the `.index.json` that says which tensor is in which."""

    def __init__(self, path):
        try:
            placed = dict(json.loads(path.read_bytes())["weight_map"])
            files = {file: path.parent / file for file in sorted(set(placed.values()))}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} does not say in which file each tensor is ({first_line(error)}).") from error
        # a prefix shows in the names of all files together
        parts = {name: _open_one(file, lambda names, _: {one: one for one in names}) for name, file in files.items()}
        absent = [name for name, file in placed.items() if name not in parts[file].shapes]
        if absent:
            raise UserError(f"{path} names {len(absent)} tensors that its files do not hold, such as {absent[0]}.")
        self._found = {bare: (parts[placed[name]], name) for bare, name in bare_names(placed, path).items()}
        super().__init__(path, {bare: part.shapes[name] for bare, (part, name) in self._found.items()}, {})

    def _read(self, name):
        part, name = self._found[name]
        return part.read(name)


def open_tensors(path):
    """Opens a file by its content; `.index.json` stands for the files that it names.

    Args:
        path: of a safetensors, PyTorch or NumPy file; the name does not matter.

    Raises:
        UserError: no such file, unreadable, truncated, with code in it, or not a state dict.
    """
    path = pathlib.Path(path)
    if path.name.endswith(".index.json") and exists(path, path) and path.is_file():
        return folded(Shards(path))
    return folded(_open_one(path))


def _open_one(path, bare=bare_names):
    if not exists(path, path):
        raise UserError(f"{path}: there is no such file.")
    if not path.is_file():
        raise UserError(f"{path}: is no regular file.")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} only says where Git LFS keeps the file; fetch it by `git lfs pull`.")
    is_torch = start[:2] == b"PK" or start[:1] == b"\x80"
    if start[8:9] == b"{" or (path.suffix.lower() == ".safetensors" and not is_torch):
        return SafetensorsSource(path, bare)
    if not is_torch:
        raise UserError(f"{path} is no PyTorch file; give a .pth that torch.save wrote, or a .safetensors.")
    if is_numpy_archive(path):  # PyTorch's files are zip archives too
        return NumpySource(path)
    return TorchSource(path, bare)


def is_numpy_archive(path):
    """Whether a file is a `.npz`: by its content, or by its name where its list of contents is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.namelist()) and all(name.endswith(".npy") for name in archive.namelist())
    except Exception:  # a broken list of names raises what it stumbles over; reading the file says it
        return path.suffix.lower() == ".npz"


class Inert:
    """What stands for an object of settings: an empty dictionary for any arguments; nothing runs."""

    def __new__(cls, *args, **kwargs):
        return collections.OrderedDict()


def _harmless():
    """Classes and functions that make numbers of NumPy's and plain settings: (object, name in files)."""
    core = np._core.multiarray
    reconstruct = [(getattr(core, name), f"numpy.{module}.multiarray.{name}")
                   for name in ("scalar", "_reconstruct") for module in ("core", "_core")]  # fmt: skip
    kinds = {type(np.dtype(code)) for code in "?bhilqBHILQefdFDSU"}
    return [argparse.Namespace, np.ndarray, np.dtype, *kinds, (codecs.encode, "_codecs.encode"), *reconstruct]


def _load_torch(path):
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is a PyTorch file, and PyTorch is not installed: pip install 'crate_jax[torch]', "
            f"or convert the file to .safetensors where it is."
        ) from error
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    # PyTorch goes by the ending as well
    file = io.BytesIO(path.read_bytes()) if path.suffix.lower() == ".safetensors" else path
    allowed, text = _harmless(), ""
    for _ in range(MOST_SETTINGS):
        try:
            with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # files of before PyTorch 1.6 are no zip archives and cannot be mapped
                return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip and file is path)
        except Exception as error:  # broken files raise many types
            text, cause = str(error) or type(error).__name__, error
        refused = re.search(r"GLOBAL ([\w.]+?)\.? was not an allowed", text)
        name = f"builtins.{refused[1]}" if refused and refused[1] in PLAIN else refused and refused[1]
        if not name or not name.startswith(SETTINGS):
            break
        allowed.append((Inert, name))
    raise UserError(_what_is_wrong(path, text)) from cause


def _what_is_wrong(path, text):
    """PyTorch's own advice, to read the file without weights_only, is the last thing to pass on."""
    if "torchscript" in text.lower():
        return (
            f"{path} is a TorchScript program, and no program in a file is run; save its tensors alone where it was "
            "written: torch.save(torch.jit.load(FILE).state_dict(), PATH)."
        )
    if "weights only" not in text.lower():
        return f"{path} is no whole PyTorch file ({text.partition('. ')[0].splitlines()[0]}); fetch it again."
    found = re.search(r"GLOBAL ([\w.]+)", text)
    what = f" ({found[1].rstrip('.')})" if found else ""
    return (
        f"{path} holds more than tensors{what}; it is not loaded, since that could run code. Where it was written, "
        "save the tensors alone: torch.save(model.state_dict(), PATH)."
    )


def write_safetensors(path, shapes, read, description):
    """Writes a `.safetensors` file tensor by tensor.

    Args:
        path: the file; it appears only when it is complete.
        shapes: name to shape; written in the order of the names.
        read: gives a tensor by its name.
        description: JSON-able; kept in the file's metadata.
    """
    header, offset = {"__metadata__": {"format": "pt", OURS: json.dumps(description)}}, 0
    for name, shape in sorted(shapes.items()):
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with finished(path) as partial, partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in sorted(shapes.items()):
            file.write(memoryview(np.ascontiguousarray(read(name), "<f4").reshape(shape)).cast("B"))


def write_torch(path, shapes, read, description, wrapper="model"):
    """Writes a PyTorch file: `{wrapper: state dict}`, and the description beside it.

    Raises:
        UserError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "--to=torch needs PyTorch: pip install 'crate_jax[torch]'; or take --to=safetensors."
        ) from error
    state = {}
    for name, shape in shapes.items():  # copied only where the layout requires it
        array = np.require(read(name), np.float32, ["C", "W"])
        state[name] = torch.from_numpy(array).reshape(shape)
    with finished(path) as partial, partial.open("wb") as file:  # given a name, it has no OSError for a full disk
        torch.save({wrapper: state, OURS: json.dumps(description)}, file)


def local_target(path):
    """A path to write to, with `~` expanded.

    Raises:
        UserError: it is in an object store.
    """
    if is_remote(path):
        raise UserError(f"{path}: files are written to a local disk; name a local one, and copy it there.")
    return pathlib.Path(os.path.expanduser(path))


@contextlib.contextmanager
def finished(path):
    """A path to write to, which takes its name when all went well and vanishes when it did not."""
    path = pathlib.Path(path)
    partial = path.with_name(f"{path.name}.{own_mark()}.partial")
    with user_errors(f"{path} cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
