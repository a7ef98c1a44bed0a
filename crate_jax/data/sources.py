"""Opens a data set: one of TFDS, one of those inside packages, or a folder of pictures. All become a `Source`."""

import contextlib
import itertools

import numpy as np

from crate_jax.data import embedded, image_folder, tfds_records
from crate_jax.data.example import bounds, parsed
from crate_jax.data.folder_listing import listed
from crate_jax.data.listed_once import remembered
from crate_jax.errors import UserError, warn_once


@remembered
def open_source(name, split, data_dir=None):
    """Finds a data set on disk or in a package; nothing is downloaded, nothing is written.

    Args:
        name: "image_folder", an embedded data set, or any TFDS data set ("name", "name/config", "name/config:version").
        split: of the data set, with TFDS's slicing syntax ("train[:90%]", "train[10:20]", "train+test").
        data_dir: the folder of pictures, or TFDS's root folder, local or `gs://`; None is TFDS's own place. Embedded
            data sets need none.

    Returns:
        An `example.Source`, such as `open_source("imagenet2012", "train[:10%]", "gs://BUCKET/tfds")`.

    Raises:
        UserError: it is missing (with the command that prepares it), empty, or holds no images.
    """
    if name == "image_folder":
        source = image_folder.open_folder(data_dir, split)
    elif name in embedded.EMBEDDED:
        source = embedded.open_embedded(name, split)
    else:
        source = tfds_records.open_records(name, split, data_dir)
    if not source.num_examples:
        raise UserError(f"data.name={name} has no examples in split {split!r} (looked in {source.location}).")
    return source


def open_held_out(settings, classify=False):
    """The Source of `data.validation_split`, with a warning where examples of it are trained on.

    Args:
        settings: the config's `data`.
        classify: its classes are to be predicted.

    Raises:
        UserError: as `open_source`; or it is to be classified, and none of its classes is one of the training split.
    """
    source = open_source(settings.name, settings.validation_split, settings.data_dir)
    with contextlib.suppress(UserError):  # slices in a syntax of TFDS's own
        if shared := _shared_examples(settings):
            warn_once(
                f"data.train_split={settings.train_split} and data.validation_split={settings.validation_split} share "
                f"{shared} examples: what is measured on them is not held out; write train[:90%] and train[90%:], say."
            )
    if classify:
        _check_classes_shared(source, settings)
    return source


def _check_classes_shared(held_out, settings):
    """Raises UserError where every held-out example would be wrong: `val/images/1.jpg` beside `train/cat/1.jpg`."""
    train = open_source(settings.name, settings.train_split, settings.data_dir)
    if train.labels is None or held_out.labels is None or not (train.class_names and held_out.class_names):
        return
    classes, others = (
        [source.class_names[n] for n in np.unique(source.labels) if n >= 0] for source in (train, held_out)
    )
    if classes and others and not set(classes) & set(others):
        raise UserError(
            f"{held_out.location}: the classes of {settings.validation_split} ({listed(others)}) are none of those of "
            f"{settings.train_split} ({listed(classes)}); sort its pictures into folders of the same names, or name "
            f"another split by --config.data.validation_split."
        )


def _shared_examples(settings):
    """How many: `train` and `train[90%:]` have a tenth in common."""
    train, held_out = parsed(settings.train_split), parsed(settings.validation_split)
    shared = 0
    for (name, *ours), (other, *theirs) in itertools.product(train, held_out):
        if (image_folder.standard_name(name) or name) == (image_folder.standard_name(other) or other):
            count = open_source(settings.name, name, settings.data_dir).num_examples
            first, last = zip(bounds(*ours, count), bounds(*theirs, count), strict=True)
            shared += max(0, min(last) - max(first))
    return shared
