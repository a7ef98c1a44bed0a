"""Files of named tensors, read one at a time and never executed: `.safetensors`, and PyTorch's with weights_only.

A large network is never in memory twice: a source gives one array when it is asked for it (PyTorch's files are mapped,
not read), and a sink takes one array at a time. Without PyTorch, `.safetensors` still works.
"""

import argparse
import json
import math
import os
import pathlib
import struct

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
    # a Namespace holds the options of Meta's training script; being built from plain values, it runs nothing
    with torch.serialization.safe_globals([argparse.Namespace]):
        for mapped in (True, False):  # files of before PyTorch 1.6 cannot be mapped
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            except Exception as error:  # whatever a broken file raises is told, not traced
                failure = error
    text = str(failure)
    if "weights only" in text.lower() or "weightsunpickler" in text.lower():
        found = text.partition("GLOBAL ")[2].split(" ")[0] or text.partition("Trying to call ")[2].split(" ")[0]
        what = f" ({found})" if found else ""
        raise UserError(f"{path} holds more than tensors{what}; it is not loaded, since that could run code.")
    raise UserError(
        f"{path} is no readable PyTorch file ({_first_line(failure)}); it may be truncated: fetch it again."
    )


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
        shapes: name to shape, in the order to be written.
        read: gives a tensor by its name.
        description: JSON-able; kept in the file's metadata.
    """
    header, offset = {"__metadata__": {"format": "pt", OURS: json.dumps(description)}}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with finished(path) as partial, partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
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
    state = {
        name: torch.from_numpy(np.array(read(name), np.float32, order="C")).reshape(shapes[name]) for name in shapes
    }
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
