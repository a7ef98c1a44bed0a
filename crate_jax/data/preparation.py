"""The embedded data sets are written where they are missing, by whoever comes first.

Two processes that start together must not write into each other, and one that is killed must leave nothing behind:
a lock held by the process (the system drops it with the process) guards a folder of the process's own, which is
renamed into place when it is complete. Whoever holds the lock may clear what a dead process left.
"""

import contextlib
import io
import logging
import os
import pathlib
import shutil

from crate_jax.errors import UserError

EMBEDDED = ("embedded_photographs", "embedded_digits")


def tfds_data_dir(data_dir):
    """Where TFDS data sets lie: what was asked for, else TFDS's own place."""
    if data_dir:
        return os.path.expanduser(str(data_dir))
    import tensorflow_datasets as tfds

    return os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or str(tfds.core.constants.DATA_DIR))


def builder_class(name):
    """The TFDS builder of an embedded data set; importing it registers it with TFDS."""
    if name == "embedded_photographs":
        from crate_jax.data.embedded_photographs.builder import Builder
    else:
        from crate_jax.data.embedded_digits.builder import Builder
    return Builder


@contextlib.contextmanager
def lock(path):
    """Held by one process of this machine at a time; dropped when the process ends, however it ends."""
    import fcntl

    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prepared_folder(name, data_dir):
    """The folder of a prepared embedded data set, or where it will be."""
    return pathlib.Path(tfds_data_dir(data_dir)) / name / str(builder_class(name).VERSION)


def prepare_embedded(name, data_dir):
    """Writes an embedded data set as ArrayRecord unless it is there.

    Args:
        name: one of EMBEDDED.
        data_dir: TFDS's root folder; None is TFDS's own place.

    Raises:
        UserError: the folder cannot be written, or a package that holds the pictures is missing.
    """
    target = prepared_folder(name, data_dir)
    if (target / "dataset_info.json").exists():
        return
    root = target.parent.parent
    if "://" in str(data_dir or ""):
        raise UserError(f"data.data_dir={data_dir} is remote; prepare {name} in a local folder and copy it there.")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with lock(root / f".{name}.lock"):
            if (target / "dataset_info.json").exists():
                return
            _write(name, root, target)
    except OSError as error:
        raise UserError(
            f"{name} cannot be written to {root} ({error}); set data.data_dir to a folder of yours."
        ) from error


def _write(name, root, target):
    import tensorflow_datasets as tfds

    unfinished = root / f".{name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    tfds.disable_progress_bar()
    logging.info("preparing %s in %s", name, target)
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces the unfinished folder as the final one
        builder_class(name)(data_dir=str(unfinished), file_format="array_record").download_and_prepare(
            download_config=tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP)
        )
    target.parent.mkdir(exist_ok=True)
    (unfinished / name / target.name).rename(target)
    shutil.rmtree(unfinished, ignore_errors=True)


def hide_accelerators():
    """Keeps TensorFlow off the devices that JAX computes on; says what is missing where it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError(
            'TensorFlow is not installed, and this needs it; run pip install "crate-jax[tensorflow]".'
        ) from error
    for kind in ("GPU", "TPU"):
        with contextlib.suppress(RuntimeError):  # too late: whoever started TensorFlow has decided
            tf.config.set_visible_devices([], kind)
