"""A person's own pictures, by path: upright, on white where transparent, gray or in colour as the network wants."""

import functools
import hashlib
import os

import numpy as np
from PIL import Image

from crate_jax.data.augment import centre_crop
from crate_jax.data.folder_listing import is_file, is_there, pictures_below, printable, read_file
from crate_jax.data.picture import CorruptPicture, decoded
from crate_jax.errors import UserError, first_line
from crate_jax.storage import is_remote
from crate_jax.storage_errors import retried

LONGEST = 4096  # letters of a path; no longer one can be there


def picture_paths(text):
    """What `--images=` names: files and folders, local or remote, separated by commas, or a list of them.

    A comma may be part of a name: the longest name that exists is taken. Of a folder, the pictures in it and in its
    sub-folders, as `image_folder` reads it.

    Returns:
        A list of (path, name): of a picture in a folder the name is relative to it, such as cat/1.jpg.

    Raises:
        UserError: there is no such file, or no picture in the folder.
    """
    if isinstance(text, list | tuple):
        found = [pair for one in text for pair in picture_paths(one)]
        if not found:
            raise UserError("--images: there is no file named.")
        return found
    if not isinstance(text, str | os.PathLike):
        raise UserError(f"--images: {type(text).__name__} is no path; give files or folders (preprocess takes arrays).")
    text = os.fspath(text)
    parts, found = text.split(","), []
    while parts:
        most = 1
        while most < len(parts) and len(",".join(parts[:most])) < LONGEST and not is_remote(parts[most].strip()):
            most += 1
        for count in range(most, 0, -1):
            path = ",".join(parts[:count]).strip()
            path = path if is_remote(path) else os.path.expanduser(path)
            pictures = _pictures_at(path) if path else []
            if pictures is not None:
                break
        else:
            raise UserError(f"--images={printable(text)}: there is no file {printable(path)}.")
        found, parts = found + pictures, parts[count:]
    if not found:
        raise UserError(f"--images={printable(text)}: there is no file named.")
    return found


def _pictures_at(path):
    """What a path names: the pictures below a folder (no hidden ones, regular files only), a file, or None."""
    if not is_there(path):
        return [(path, printable(os.path.basename(path)))] if is_file(path) else None
    found = [(os.path.join(path, name), printable(name)) for name, _ in pictures_below(path)[0]]
    found = [pair for pair in found if is_remote(path) or os.path.isfile(pair[0])]
    if not found:
        raise UserError(f"--images={printable(path)}: the folder holds no pictures.")
    return found


def read_pictures(text, shape, channels, settings):
    """Pictures as a batch: as small as the wanted shape allows, then a centre crop.

    Args:
        text: see `picture_paths`.
        shape: (height, width) of the result.
        channels: 1 or 3.
        settings: the config's `data`; its `interpolation` and `max_pixels` are used.

    Returns:
        (images_BxHxWxC uint8, names).

    Raises:
        UserError: see `picture_paths`; or a file that is no picture.
    """
    images, names = [], []
    for path, name in picture_paths(text):
        picture = read_picture(path, channels, settings.max_pixels, "--images")
        images.append(fitted(picture, shape, settings.interpolation))
        names.append(name)
    return np.stack(images), names


def read_picture(image, channels, max_pixels, what):
    """One picture as an upright PIL image of mode "L" or "RGB".

    Args:
        image: a path, a PIL image, or an array HxW, HxWx1 or HxWx3 (uint8).
        channels: 1 or 3.
        max_pixels: that it may have.
        what: is asking, for the message.

    Raises:
        UserError: it is none of these, or cannot be read.
    """
    called = "a PIL image"
    try:
        if isinstance(image, str | os.PathLike):
            called = printable(image)
            if os.path.isdir(os.path.expanduser(image)):
                raise UserError(f"{what}: {called} is a folder; give the pictures in it, a list of paths.")
            image = retried(functools.partial(read_file, os.path.expanduser(image)), f"{what}: {called}")
        elif not isinstance(image, Image.Image):
            image = np.asarray(image)
            called, shape = f"an array of {image.dtype} and shape {image.shape}", image.shape
            if image.dtype != np.uint8 or 0 in shape or len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,)):
                raise UserError(
                    f"{what}: {called}; give uint8, H x W or H x W x C with 1 or 3 channels (floats from 0 to 1: "
                    "(255 * x).astype('uint8'))."
                )
        return decoded(image, channels, max_pixels)
    except (CorruptPicture, MemoryError) as error:
        raise UserError(f"{what}: {called} cannot be read as a picture ({first_line(error)}).") from error


def fitted(picture, shape, interpolation):
    """A PIL picture resized until it covers height x width, and the middle of it: H x W x C, uint8."""
    return np.asarray(centre_crop(picture, shape, min(shape), interpolation)).reshape(*shape, -1)


def picture_data(images_BxHxWxC):
    """`data` of results on a person's own pictures."""
    digest = hashlib.sha256(np.ascontiguousarray(images_BxHxWxC).data).hexdigest()[:16]
    return {"name": "images", "split": None, "fingerprint": digest, "examples": len(images_BxHxWxC)}
