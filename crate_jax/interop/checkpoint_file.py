"""Our own form of a checkpoint, and the one door to all forms: what every command's `--checkpoint=P` takes.

FOLDER/model.json              format, name and overrides of `create_model`
FOLDER/params.safetensors      the parameters, by path: encoder_00/compression/attention/subspaces
FOLDER/carried.safetensors     official tensors that the network has no use for, so that they are not lost
"""

import json
import os
import pathlib

import numpy as np

from crate_jax.errors import UserError, check_path
from crate_jax.interop.named_networks import located
from crate_jax.interop.network import by_layer, needs_decoder, parameter_shapes
from crate_jax.interop.recognition import described, description_for
from crate_jax.interop.tensor_files import open_tensors, write_safetensors
from crate_jax.interop.torch_checkpoint import OfficialCheckpoint, check_shapes, given, read_params
from crate_jax.models.registry import create_model
from crate_jax.storage import exists, is_remote, write_json

FORMAT = 1
# a file's tensors hold these: a config file does not contradict them, only the command line can
HELD = ("width", "depth", "decoder_depth", "decoder_width", "patch_size", "channels", "image_size", "table_image_size")
HEADS = ("num_heads", "decoder_num_heads")  # they follow from an official width
OF_CLASSIFIERS = ("num_classes", "drop_path", "pooling")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
MODEL, PARAMS, CARRIED = "model.json", "params.safetensors", "carried.safetensors"


class FolderCheckpoint:
    """A folder of the form above; the attributes are those of `OfficialCheckpoint`."""

    def __init__(self, folder, overrides):
        self.folder = pathlib.Path(folder)
        description = read_description(self.folder)
        self.name, self.overrides = described(description, overrides)
        self.trained_with = description.get("trained_with", {})
        self.encoder_only = description.get("encoder_only", False)
        self.model = create_model(self.name, **self.overrides)
        self.source = open_tensors(self.folder / PARAMS)
        self.carried = open_tensors(self.folder / CARRIED) if (self.folder / CARRIED).is_file() else None
        self.spare = dict(self.carried.shapes) if self.carried else {}
        self.shapes = parameter_shapes(self.model)
        self.paths = [path for path in self.shapes if not (self.encoder_only and needs_decoder(path))]
        check_shapes(self.source, {path: self.shapes[path] for path in self.paths}, self.name, self.overrides)

    def read(self, path):
        """One parameter, f32."""
        return self.source.read(path)

    def read_spare(self, name):
        """One carried tensor."""
        return self.carried.read(name)


def read_description(folder):
    """What `model.json` says.

    Raises:
        UserError: the folder is no checkpoint, or of a later format.
    """
    file = pathlib.Path(folder) / MODEL
    if not file.is_file():
        run = next((one for one in (file.parent, *file.parents[1:3]) if (one / "config.json").is_file()), None)
        hint = f"; {run} is a run: name that folder (as --workdir in commands)" if run else ""
        raise UserError(f"{folder} holds no {MODEL}, so it is no converted checkpoint{hint}.")
    try:
        description = json.loads(file.read_bytes())
        number, _, _ = description["format"], description["name"], description["overrides"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} does not say which network it is of ({error!r}); convert the file again.") from error
    if number != FORMAT:
        raise UserError(f"{file} is of format {number}, and this crate_jax reads {FORMAT}; update it.")
    return description


def open_checkpoint(path, overrides):
    """A checkpoint of any form, matched to its network and not read yet.

    Args:
        path: `.pth`, `.safetensors` (or the `.index.json` of several), a folder that `convert --to=flax` wrote, or
            one with such a file under the hub's name; or the name of a network (`named_networks`).
        overrides: attributes of the network.

    Raises:
        UserError: unreadable, of another network, or with a tensor missing or of a wrong shape.
    """
    path = located(path)
    if is_remote(path):
        raise UserError(f"{path}: checkpoint files are read from a local disk; copy it here first, and name the copy.")
    path = pathlib.Path(os.path.expanduser(path))
    if exists(path / MODEL, path) or (path.is_dir() and weights_in(path) is None):
        return FolderCheckpoint(path, overrides)
    return OfficialCheckpoint(open_tensors(weights_in(path) or path), overrides)


def weights_in(folder):
    """The file of weights in a folder of the Hugging Face hub's form, which is none of ours; or None."""
    folder = pathlib.Path(folder)
    names = () if (folder / MODEL).is_file() else WEIGHTS
    return next((folder / name for name in names if (folder / name).is_file()), None)


def open_for(path, leaves, explicit=()):
    """A checkpoint of any form, with no more of a config than the file leaves open.

    Args:
        path: see `open_checkpoint`.
        leaves: attributes of the network that a config gives.
        explicit: names of those that can contradict the file.

    Raises:
        UserError: as `open_checkpoint`.
    """
    leaves = given(leaves)

    def attempt(*ignored):
        kept = {k: v for k, v in leaves.items() if k in explicit or k not in (*ignored, *OF_CLASSIFIERS)}
        return open_checkpoint(path, kept)

    try:
        opened = attempt(*HELD, *HEADS)
    except UserError:  # a width that no official network has: the config says the heads
        opened = attempt(*HELD)
    says_size = (
        hasattr(opened, "folder") or opened.source.description or any("pos_emb" in n for n in opened.source.shapes)
    )
    if not says_size and "image_size" in leaves:
        opened = attempt(*(name for name in HELD if name != "image_size"))
    return opened


def load_torch_checkpoint(path, **overrides):
    """An official checkpoint, or one of any other form that `open_checkpoint` takes, ready to be applied.

    Args:
        path: `.pth` (any wrapping, read with weights_only), `.safetensors`, or a folder.
        **overrides: attributes of the network: those that no tensor holds (`num_heads`, `lambda_`, `eta`), or another
            `image_size` (the position table is then resized as the official code does), `dtype`, `mask_mode`, ...

    Returns:
        (model, params). A file of Meta's without a decoder gets a fresh one.

    Raises:
        UserError: unreadable, of another network, or with a tensor missing or of a wrong shape.
    """
    check_path("path", path)
    checkpoint = open_checkpoint(path, given(overrides))
    return checkpoint.model, read_params(checkpoint)


def write_folder(checkpoint, folder):
    """Writes a checkpoint of any form in our own; `model.json` comes last, so that half a folder is none.

    Raises:
        UserError: the folder holds something else.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / MODEL).is_file())):
        raise UserError(f"{folder} exists and is no converted checkpoint; give a new or an empty folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MODEL, CARRIED):
        (folder / name).unlink(missing_ok=True)
    shapes = {path: checkpoint.shapes[path] for path in checkpoint.paths}
    write_safetensors(folder / PARAMS, shapes, checkpoint.read, {})
    if checkpoint.spare:
        write_safetensors(folder / CARRIED, checkpoint.spare, checkpoint.read_spare, {})
    description = {"format": FORMAT, **description_for(checkpoint)}
    if checkpoint.encoder_only:
        description["encoder_only"] = True
    write_json(folder / MODEL, description)


class ParamsCheckpoint:
    """A network in memory, with the attributes of `OfficialCheckpoint`.

    Args:
        model, params: as `crate_jax.load` gives them.
        name, overrides: what `create_model` made the model from.
        trained_with: settings of its training that belong to the network, such as `data.mean`, by leaf.
    """

    encoder_only = False

    def __init__(self, model, params, name, overrides, trained_with=None):
        self.model, self.name, self.overrides, self.trained_with = model, name, overrides, trained_with or {}
        self.params = by_layer(params)
        self.shapes = {path: array.shape for path, array in self.params.items()}
        self.paths, self.spare = list(self.params), {}

    def read(self, path):
        """One parameter, f32."""
        return np.asarray(self.params[path], np.float32)
