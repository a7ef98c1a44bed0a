"""Official checkpoints as `(model, params)`: CRATE-MAE, the supervised CRATE, Meta's MAE, timm's ViT.

A file says which network it is of (`recognition`), every parameter has its tensor (`names`), and what an official file
holds beyond that (frozen tables, the layer that CRATE-MAE never uses) is carried along, so that nothing is lost.
"""

import logging

import jax
import numpy as np

from crate_jax.errors import UserError
from crate_jax.interop.foreign_names import official_names
from crate_jax.interop.network import by_layer, links_of, needs_decoder, official_shape, parameter_shapes, stacked
from crate_jax.interop.recognition import recognise
from crate_jax.models.masked_autoencoder import CrateMae, VitMae
from crate_jax.models.registry import create_model, init_params
from crate_jax.operators.positions import sincos_positions

# in official files, and never trained: frozen sine-cosine tables, and CRATE-MAE's unused layer
SPARE = ("pos_embed", "decoder_pos_embed", "decoder_embed.weight", "decoder_embed.bias", "mask_token")
_TABLE_TOLERANCE, _HALF_TOLERANCE = 1e-4, 5e-3


class OfficialCheckpoint:
    """An official file, matched to its network; nothing is read yet.

    Attributes:
        source: from `open_tensors`.
        name, overrides: what `create_model` takes.
        trained_with: settings of its training, by leaf, that a file of ours says; {} of others.
        model: the network.
        paths: of the parameters that the file holds.
        spare: official name to shape of the tensors that the network has no use for.
        encoder_only: Meta's file without a decoder.
    """

    def __init__(self, source, overrides):
        self.source = source = official_names(source)
        self.name, self.overrides = recognise(source, overrides)
        self.trained_with = source.description.get("trained_with", {})
        self.model = create_model(self.name, **self.overrides)
        self.shapes = parameter_shapes(self.model)
        self.encoder_only = isinstance(self.model, VitMae) and "decoder_pred.weight" not in source.shapes
        held = {link.path: link for link in links_of(self.model) if link.path in self.shapes}
        if self.encoder_only:
            held = {path: link for path, link in held.items() if not needs_decoder(path)}
        self.links = held
        self.paths = list(held)
        known = {link.official for link in held.values()}
        self.spare = {name: shape for name, shape in source.shapes.items() if name not in known}
        self._check_shapes()
        self._check_spare()

    def _check_shapes(self):
        items = self.links.items()
        wanted = {link.official: official_shape(self.model, link, self.shapes[path]) for path, link in items}
        check_shapes(self.source, wanted, self.name, self.overrides)

    def _check_spare(self):
        official = {link.official for link in links_of(self.model)}
        strange = [name for name in self.spare if name not in official and name not in SPARE]
        if strange:
            raise UserError(
                f"{self.source.path}: {_tensors(strange)} belong{'s' * (len(strange) == 1)} to no {self.name}; it is a "
                "file of another network."
            )
        inner = getattr(self.model, "decoder_width", None) or self.model.width
        for name, width in (("pos_embed", self.model.width), ("decoder_pos_embed", inner)):
            never_used = isinstance(self.model, CrateMae) and name == "pos_embed"
            if name in self.spare and not never_used:
                self._check_table(name, width)

    def _check_table(self, name, width):
        shape, (rows, columns) = self.spare[name], self.model.table_grid
        if tuple(shape) != (1, rows * columns + 1, width):
            raise UserError(
                f"{self.source.path}: tensor {name} has shape {tuple(shape)}, which is no table of width {width} for "
                f"{rows} x {columns} patches."
            )
        table_TxD = np.ascontiguousarray(self.source.read(name)[0])
        half = not (table_TxD.view(np.uint32) & 0x1FFF).any()  # it was float16 or bfloat16 in the file
        tolerance = _HALF_TOLERANCE if half else _TABLE_TOLERANCE
        if np.abs(table_TxD - sincos_positions((rows, columns), width)).max() > tolerance:
            raise UserError(
                f"{self.source.path}: tensor {name} is not the sine-cosine table that every {self.name} has; "
                f"it is a file of another network."
            )

    def read(self, path):
        """One parameter, f32."""
        link = self.links[path]
        return link.from_official(self.source.read(link.official), self.shapes[path])

    def read_spare(self, name):
        """One tensor that the network has no use for, as it came."""
        return self.source.read(name)


def check_shapes(source, wanted, name, overrides):
    """Refuses a file without every tensor of a network, or with one of another shape.

    Args:
        source: from `tensor_files.open_tensors`.
        wanted: name to shape.
        name, overrides: of the network, for the message.

    Raises:
        UserError: naming the tensors.
    """
    settings = f"{name} with {settings_in_words(overrides)}"
    missing = [one for one in wanted if one not in source.shapes]
    if missing:
        are = "are" if len(missing) > 1 else "is"
        raise UserError(
            f"{source.path}: {_tensors(missing)} {are} missing, {len(missing)} of the {len(wanted)} that {settings} "
            "has; the file is of another network, or was cut."
        )
    other = [one for one, shape in wanted.items() if tuple(source.shapes[one]) != tuple(shape)]
    if other:
        raise UserError(
            f"{source.path}: tensor {other[0]} has shape {tuple(source.shapes[other[0]])}, but {settings} wants "
            f"{tuple(wanted[other[0]])}" + (f", and {len(other) - 1} more do not fit." if len(other) > 1 else ".")
        )


def _tensors(names, most=5):
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"tensor{'s' * (len(names) > 1)} {', '.join(names[:most])}{more}"


def settings_in_words(overrides):
    """`width=48, depth=2`, or that nothing differs."""
    return ", ".join(f"{key}={value}" for key, value in overrides.items()) or "nothing changed"


def given(overrides):
    """The overrides that are set."""
    return {name: value for name, value in overrides.items() if value is not None}


def read_params(checkpoint):
    """The tree of parameters on the default device, read one at a time; a decoder that no file holds is fresh."""
    # np.ascontiguousarray would make a vector of a scalar
    flat = {path: np.asarray(checkpoint.read(path), order="C") for path in checkpoint.paths}
    if checkpoint.encoder_only:
        logging.warning(
            "%s holds an encoder only: its decoder is fresh, and completes nothing.", checkpoint.source.path
        )
        fresh = by_layer(jax.device_get(init_params(checkpoint.model, jax.random.key(0))))
        flat.update({path: array for path, array in fresh.items() if path not in flat})
    return jax.tree.map(jax.device_put, stacked(flat))
