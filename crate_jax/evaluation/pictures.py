"""A person's own pictures, by path: upright, on white where transparent, gray or in colour as the network wants."""

import pathlib

import numpy as np

from crate_jax.data.augment import centre_crop
from crate_jax.data.image_folder import PICTURES
from crate_jax.data.picture import CorruptPicture, decoded
from crate_jax.errors import UserError


def picture_paths(text):
    """What `--images=` names: files, separated by commas, or a folder.

    Raises:
        UserError: there is no such file, or no picture in the folder.
    """
    folder = pathlib.Path(text).expanduser()
    if folder.is_dir():
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
        if not found:
            raise UserError(f"--images={text}: the folder holds no pictures.")
        return found
    paths = [pathlib.Path(part.strip()).expanduser() for part in text.split(",") if part.strip()]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise UserError(f"--images={text}: there is no file {', '.join(missing) or 'named'}.")
    return paths


def read_pictures(text, config, image_size, channels):
    """Pictures as a batch: the shorter side resized to the network's size, then a centre crop.

    Args:
        text: of `--images=`.
        config: its `data.interpolation` is used.
        image_size: pixels.
        channels: 1 or 3.

    Returns:
        (images_BxHxWxC uint8, names).

    Raises:
        UserError: see `picture_paths`; or a file that is no picture.
    """
    images, names = [], []
    for path in picture_paths(text):
        try:
            picture = decoded(path.read_bytes(), channels)
        except (CorruptPicture, OSError) as error:
            raise UserError(f"--images: {path} cannot be read as a picture ({error}).") from error
        images.append(np.asarray(centre_crop(picture, image_size, image_size, config.data.interpolation)))
        names.append(path.name)
    return np.stack(images).reshape(len(images), image_size, image_size, channels), names
