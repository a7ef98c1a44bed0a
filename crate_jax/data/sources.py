"""Opens a data set: one of TFDS, one of those inside packages, or a folder of pictures. All become a `Source`."""

from crate_jax.data import embedded, image_folder, tfds_records
from crate_jax.data.listed_once import remembered
from crate_jax.errors import UserError


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
