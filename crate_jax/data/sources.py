"""Opens a data set: one of TFDS, one of those inside packages, or a folder of pictures. All become a `Source`."""

import contextlib
import itertools

from crate_jax.data import embedded, image_folder, tfds_records
from crate_jax.data.example import bounds, parsed
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


def open_held_out(settings):
    """The Source of `data.validation_split`, with a warning where examples of it are trained on.

    Args:
        settings: the config's `data`.

    Raises:
        UserError: as `open_source`.
    """
    source = open_source(settings.name, settings.validation_split, settings.data_dir)
    with contextlib.suppress(UserError):  # slices in a syntax of TFDS's own
        if shared := _shared_examples(settings):
            warn_once(
                f"data.train_split={settings.train_split} and data.validation_split={settings.validation_split} share "
                f"{shared} examples: what is measured on them is not held out; write train[:90%] and train[90%:], say."
            )
    return source


def _shared_examples(settings):
    """How many: `train` and `train[90%:]` have a tenth in common."""
    train, held_out = parsed(settings.train_split), parsed(settings.validation_split)
    shared = 0
    for (name, *ours), (other, *theirs) in itertools.product(train, held_out):
        if _standard(name) == _standard(other):
            count = open_source(settings.name, name, settings.data_dir).num_examples
            first, last = zip(bounds(*ours, count), bounds(*theirs, count), strict=True)
            shared += max(0, min(last) - max(first))
    return shared


def _standard(name):
    return image_folder.standard_name(name) or name
