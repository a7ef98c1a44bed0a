"""A person's own pictures, by path: upright, on white where transparent, gray or in colour as the network wants."""

import hashlib
import os

import numpy as np

from crate_jax.data.augment import centre_crop
from crate_jax.data.folder_listing import (
    entries_of,
    is_file,
    is_picture,
    is_there,
    joined,
    printable,
    read_bytes,
)
from crate_jax.data.picture import decoded
from crate_jax.errors import UserError, first_line
from crate_jax.operators.patches import image_shape
from crate_jax.storage import is_remote


def picture_paths(text):
    """What `--images=` names: files and folders, local or remote, separated by commas, or a list of them.

    A comma may be part of a name: the longest name that exists is taken. Of a folder, the pictures directly in it.

    Raises:
        UserError: there is no such file, or no picture in the folder.
    """
    if isinstance(text, list | tuple):
        found = [path for one in text for path in picture_paths(one)]
        if not found:
            raise UserError("--images: there is no file named.")
        return found
    if not isinstance(text, str | os.PathLike):
        raise UserError(f"--images: {type(text).__name__} is no path; give files or folders (preprocess takes arrays).")
    text = os.fspath(text)
    parts, found, first = text.split(","), [], 0
    while first < len(parts):
        for last in range(len(parts), first, -1):
            path = ",".join(parts[first:last]).strip()
            path = path if is_remote(path) else os.path.expanduser(path)
            if path and is_there(path):
                found += pictures_in(path)
                break
            if path and is_file(path):
                found.append(path)
                break
        else:
            if path:
                raise UserError(f"--images={printable(text)}: there is no file {printable(path)}.")
            last = first + 1
        first = last
    if not found:
        raise UserError(f"--images={printable(text)}: there is no file named.")
    return found


def pictures_in(folder):
    """Paths of the pictures directly in a folder; hidden ones and what is no regular file are left out."""
    names = [entry.name for entry in entries_of(folder) if entry.kind == "file" and is_picture(entry.name)]
    if not names:
        raise UserError(f"--images={printable(folder)}: the folder holds no pictures.")
    return [joined(folder, name) for name in names]


def read_pictures(subject, text):
    """Pictures as a batch for a network: as small as its size allows, then a centre crop.

    Args:
        subject: a `Subject`; its model's size and channels, its config's `data` and interpolation are used.
        text: see `picture_paths`.

    Returns:
        (images_BxHxWxC uint8, names).

    Raises:
        UserError: see `picture_paths`; or a file that is no picture.
    """
    images, names, settings = [], [], subject.config.data
    for path in picture_paths(text):
        try:
            picture = decoded(read_bytes(path), subject.model.channels, settings.max_pixels)
        except Exception as error:  # object stores raise what their client library raises
            words = f"--images: {printable(path)} cannot be read as a picture ({first_line(error)})."
            raise UserError(words) from error
        images.append(fitted(picture, image_shape(subject.model.image_size), settings.interpolation))
        names.append(printable(os.path.basename(path)))
    return np.stack(images), names


def fitted(picture, shape, interpolation):
    """A PIL picture resized until it covers height x width, and the middle of it: H x W x C, uint8."""
    return np.asarray(centre_crop(picture, shape, min(shape), interpolation)).reshape(*shape, -1)


def picture_data(images_BxHxWxC):
    """`data` of results on a person's own pictures."""
    digest = hashlib.sha256(np.ascontiguousarray(images_BxHxWxC).data).hexdigest()[:16]
    return {"name": "images", "split": None, "fingerprint": digest, "examples": len(images_BxHxWxC)}
