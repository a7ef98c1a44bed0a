"""Is a checkpoint whole? Asked by several hosts before any of them restores it, and of the first one after it is saved.

A host that finds its part of a file cut off would leave the restore alone, and the others waiting for it. So each reads
an equal share of the stored bytes first, as many as it is about to restore, and all hear what any one of them met. What
a single process meets it meets while restoring.
"""

import errno
import json
from urllib.parse import quote

import jax
import numpy as np

from crate_jax.errors import first_line
from crate_jax.processes import of_all_hosts
from crate_jax.storage import absolute, is_remote
from crate_jax.storage_errors import storage_failure

DAMAGE = (errno.ENOENT, errno.ENOTDIR)  # a file of the checkpoint is not there
READS_AT_ONCE = 16  # of stored values, so that a large checkpoint does not stand in the host's memory


def unreadable(folder, items):
    """What is wrong with the checkpoint in a step's folder, which should hold these items; called on every host.

    Returns:
        None for a whole one; else a few words, on every host.
    """
    found = _unreadable_share(folder, items, jax.process_index(), jax.process_count())
    failed = np.flatnonzero(of_all_hosts([found is not None]))
    return (found or f"host {failed[0]} cannot read its share") if failed.size else None


def _unreadable_share(folder, items, part, parts):
    import tensorstore as ts

    for item in items:
        here = folder / item
        if not (here / "_METADATA").exists():
            return f"{item} has no _METADATA"
        kind, _, place = (str(here) if is_remote(here) else f"file://{absolute(here)}").partition("://")
        try:
            described = [here / "_METADATA", here / "_sharding", folder / "_CHECKPOINT_METADATA"]
            for file in described + sorted((here / "array_metadatas").glob("*"))[part::parts]:
                if file.exists():
                    json.loads(file.read_text())
            stored = ts.KvStore.open({"driver": "ocdbt", "base": f"{kind}://{quote(place)}/"}).result()
            keys = sorted(stored.list().result())
            if not keys:
                return f"{item} is empty"
            mine = keys[part::parts]
            for first in range(0, len(mine), READS_AT_ONCE):
                for read in [stored.read(key) for key in mine[first : first + READS_AT_ONCE]]:
                    if read.result().state != "value":
                        return f"{item} lacks a value"
        except (ValueError, OSError) as error:
            refuse_if_storage_failed(folder, error)
            return first_line(error)[:200]
    return None


def refuse_if_storage_failed(folder, error):
    """Ends a restore whose storage does not answer: the checkpoint may be whole, and is not passed over or renamed.

    Raises:
        UserError: the error is the storage's, not of what is stored.
    """
    failure = failure_behind(error)
    if failure is not None and failure.number not in DAMAGE:
        raise failure.told(f"the checkpoint {folder} cannot be read now, and is kept") from error


def failure_behind(error):
    """The first `storage_errors.Failure` in what Orbax has wrapped; None where there is none."""
    while error is not None:
        if (failure := storage_failure(error)) is not None:
            return failure
        error = error.__cause__
    return None
