"""Files of named tensors, read one at a time and never executed: `.safetensors`, and PyTorch's with weights_only.

A large network is never in memory twice: a source gives one array when it is asked for it (PyTorch's files are mapped,
not read), and a sink takes one array at a time. Without PyTorch, `.safetensors` still works.
"""

import argparse
import json
import math
import os
import pathlib
import re
import struct
import warnings

import numpy as np
import safetensors

from crate_jax.errors import UserError

WRAPPERS = ("model", "state_dict", "net")  # of Meta's and CRATE-MAE's, the supervised CRATE's, its fine-tuning script's
PREFIXES = ("module.", "_orig_mod.")  # DataParallel's and torch.compile's
OURS = "crate_jax"  # the entry that says which network it is, in a file that we wrote


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
        """One tensor, as float32."""
        raise TypeError(f"{type(self).__name__} does not say how to read {name}")


class SafetensorsSource(Source):
    """A `.safetensors` file. It is opened for every tensor, so that what was read of it does not stay mapped."""

    def __init__(self, path):
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                names = {_bare(name): name for name in file.keys()}  # noqa: SIM118 (not a dictionary)
                shapes = {bare: tuple(file.get_slice(name).get_shape()) for bare, name in names.items()}
            description = json.loads(metadata.get(OURS, "{}"))
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{path} is no readable safetensors file ({_first_line(error)}); fetch it again."
            ) from error
        self.names = names
        super().__init__(path, shapes, description)

    def read(self, name):
        try:
            with safetensors.safe_open(self.path, framework="numpy") as file:
                array = file.get_tensor(self.names[name])
        except (safetensors.SafetensorError, OSError, TypeError) as error:
            raise UserError(f"{self.path}: tensor {name} cannot be read ({_first_line(error)})") from error
        return np.asarray(array, np.float32)


class TorchSource(Source):
    """A file of PyTorch's, unwrapped; nothing but tensors and plain values is let through."""

    def __init__(self, path):
        tensors, description = unwrap(_load_torch(path), path)
        self.tensors = tensors
        super().__init__(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, description)

    def read(self, name):
        return self.tensors[name].detach().float().numpy()


def open_tensors(path):
    """Opens a file by its ending (`.safetensors`, anything else is PyTorch's).

    Raises:
        UserError: no such file, unreadable, truncated, with code in it, or not a state dict.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    return SafetensorsSource(path) if path.suffix == ".safetensors" else TorchSource(path)


def _load_torch(path):
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is a PyTorch file, and PyTorch is not installed: pip install 'crate_jax[torch]', "
            f"or convert the file to .safetensors where it is."
        ) from error
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK" and start[:1] != b"\x80":
        raise UserError(f"{path} is no PyTorch file; give a .pth that torch.save wrote, or a .safetensors.")
    try:
        # a Namespace holds the options of Meta's training script; being built from plain values, it runs nothing
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # files of before PyTorch 1.6 are no zip archives and cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True, mmap=start == b"PK")
    except Exception as error:  # whatever a broken file raises is told, not traced
        raise UserError(_what_is_wrong(path, str(error) or type(error).__name__)) from error


def _what_is_wrong(path, text):
    """PyTorch's own advice, to read the file without weights_only, is the last thing to pass on."""
    if "weights only" not in text.lower():
        return f"{path} is no whole PyTorch file ({text.partition('. ')[0].splitlines()[0]}); fetch it again."
    found = re.search(r"GLOBAL ([\w.]+)", text)
    what = f" ({found[1].rstrip('.')})" if found else ""
    return f"{path} holds more than tensors{what}; it is not loaded, since that could run code."


def unwrap(content, path):
    """The state dict in whatever official scripts wrap it in.

    Returns:
        (tensors by bare name, description).
    """
    import torch

    description = {}
    while isinstance(content, dict):
        if isinstance(content.get(OURS), str):
            description = json.loads(content[OURS])
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: a state dict was expected, not {type(content).__name__}.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UserError(f"{path}: {name!r} is {type(value).__name__}, not a tensor; this is no state dict.")
    return {_bare(name): value for name, value in content.items()}, description


def _bare(name):
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if name.startswith(prefix):
                name, stripped = name[len(prefix) :], True
    return name


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
    for name, shape in shapes.items():  # a copy only where the layout asks for one
        array = np.require(read(name), np.float32, ["C", "W"])
        state[name] = torch.from_numpy(array).reshape(shape)
    with finished(path) as partial:
        torch.save({wrapper: state, OURS: json.dumps(description)}, partial)


class finished:
    """A path to write to, which takes its name when all went well and vanishes when it did not."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.partial

    def __exit__(self, kind, *_):
        if kind is None:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink(missing_ok=True)
