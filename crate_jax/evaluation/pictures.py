"""A person's own pictures, by path: upright, on white where transparent, gray or in colour as the network wants.

And pictures of a split by their numbers, for figures.
"""

import pathlib

import jax
import numpy as np

from crate_jax.data.augment import centre_crop
from crate_jax.data.image_folder import PICTURES
from crate_jax.data.picture import CorruptPicture, decoded
from crate_jax.data.pipeline import evaluation_batches
from crate_jax.errors import UserError
from crate_jax.evaluation.feature_store import batch_size_of
from crate_jax.evaluation.features import several_features
from crate_jax.training.objective import normalise


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


def picture_features(subject, images_BxHxWxC, features):
    """Features of a person's own pictures.

    Args:
        subject: a `Subject`.
        images_BxHxWxC: of `read_pictures`.
        features: POOLING@LAYER.

    Returns:
        features_BxG.
    """
    model, count = subject.model, len(images_BxHxWxC)
    size, found = min(batch_size_of(model.image_size, 1), count), []
    for first in range(0, count, size):
        part = images_BxHxWxC[first : first + size]
        padded = np.pad(part, [(0, size - len(part)), *[(0, 0)] * 3])  # one shape, one compilation
        rows = several_features(model, subject.params, normalise(padded, *subject.statistics), (features,))
        found.append(jax.device_get(rows[features])[: len(part)])
    return np.concatenate(found)


def split_pictures(subject, split, index_N):
    """Pictures of a split by their numbers, as the network sees them: NxHxWxC from 0 to 1."""
    model = subject.model
    size = min(batch_size_of(model.image_size, 1), len(index_N))
    batches = evaluation_batches(subject.config, split, model.image_size, model.channels, size, indices=index_N)
    images = np.concatenate([batch["image"] for batch in batches])[: len(index_N)]
    batches.close()
    return images / np.float32(255)


def class_namer(source):
    """A function from a label to what to call it."""
    names = source.class_names
    return lambda label: str(names[label] if names else label)
