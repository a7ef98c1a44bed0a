"""A TFRecord data set becomes an ArrayRecord one, once: the records' bytes as they are, file by file, many at a time.

TFRecord files can be read from the beginning only, ArrayRecord files by index. A file is written under another name and
renamed when it is complete, so the same command resumes after an interruption.
"""

import concurrent.futures
import contextlib
import json
import os
import tempfile

from etils import epath

from crate_jax.cores import available_cores
from crate_jax.data.tfds_records import read_only_builder
from crate_jax.errors import UserError
from crate_jax.storage import is_remote, write_file, write_json
from crate_jax.storage_errors import retried, user_errors

INFO = "dataset_info.json"


def _convert_file(source, target, num_records):
    """Writes the records of one TFRecord file as an ArrayRecord file, unless it is there."""
    if target.exists():
        return
    local = None if is_remote(target) else target.parent
    with tempfile.TemporaryDirectory(dir=local, prefix=".unfinished-") as folder:
        unfinished, readable = os.path.join(folder, "unfinished"), source
        if is_remote(source):
            readable = os.path.join(folder, "source")
            retried(lambda: epath.Path(source).copy(readable, overwrite=True), source)
        count = retried(lambda: _copy_records(readable, unfinished), source)
        if count != num_records:
            raise UserError(
                f"{source} holds {count} whole records where its {INFO} says {num_records}; copy or prepare it again."
            )
        if is_remote(target):
            retried(lambda: epath.Path(unfinished).copy(target), target)
        else:
            os.replace(unfinished, target)


def _copy_records(source, target):
    """Writes the records of a TFRecord file to an ArrayRecord file, as far as they are whole; returns how many."""
    import grain
    from array_record.python.array_record_module import ArrayRecordWriter

    writer, count = ArrayRecordWriter(target, "group_size:1"), 0
    with contextlib.suppress(ValueError, OverflowError, MemoryError):  # the file, or the length of a record, is cut
        for record in grain.experimental.TFRecordIterDataset(source):
            writer.write(record)
            count += 1
    writer.close()
    return count


def convert(name, data_dir, out, progress=print):
    """Converts every split of a TFDS data set.

    Args:
        name, data_dir: as of `sources.open_source`.
        out: TFDS root folder to write to, to be named as `data.data_dir` afterwards; local or gs://.
        progress: called with a line for people after each file.

    Returns:
        The folder of the converted version.

    Raises:
        UserError: no such data set, another format, a damaged file, a folder that cannot be written.
    """
    builder = read_only_builder(name, data_dir)
    found = builder.info.file_format.value
    if found != "tfrecord":
        raise UserError(f"{builder.data_dir} is stored as {found}; only tfrecord is converted.")
    source = epath.Path(builder.data_dir)
    version = source.relative_to(source.parents[len(builder.info.full_name.split("/")) - 1])
    target = epath.Path(out) / version
    if target == source:
        raise UserError(f"--out={out} is the folder of the data set itself; name another one.")
    with user_errors(f"--out={out} cannot be written"):
        target.mkdir(parents=True, exist_ok=True)
    files = [
        (str(path), target / _renamed(epath.Path(path).name), length)
        for split in builder.info.splits.values()
        for path, length in zip(split.filepaths, split.shard_lengths, strict=True)
    ]
    with concurrent.futures.ThreadPoolExecutor(min(len(available_cores()), 16)) as pool:
        for number, _ in enumerate(pool.map(_convert_file, *zip(*files, strict=True)), 1):  # an error cancels the rest
            progress(f"{number} of {len(files)} files")
    done = {INFO, *(epath.Path(path).name for path, _, _ in files)}
    for entry in source.iterdir():  # labels, features, licence
        if entry.name not in done and entry.is_file() and not entry.name.startswith("."):
            write_file(target / entry.name, entry.read_bytes())
    info = json.loads((source / INFO).read_text())
    info["fileFormat"] = "array_record"
    for split in info["splits"]:
        if "filepathTemplate" in split:
            split["filepathTemplate"] = _renamed(split["filepathTemplate"])
    write_json(target / INFO, info)  # last: without it there is no data set
    return str(target)


def _renamed(name):
    """TFDS's format names are a part of its file names."""
    return name.replace(".tfrecord", ".array_record")
