"""Is a checkpoint whole? Asked by several hosts before any of them restores it.

A host that finds its part of a file cut off would leave the restore alone, and the others waiting for it. So each reads
an equal share of the stored bytes first, as many as it is about to restore, and all hear what any one of them met. What
a single process meets it meets while restoring.
"""

import jax
import numpy as np


def unreadable(folder, items):
    """What is wrong with a checkpoint.

    Args:
        folder: an `epath.Path`, the step's.
        items: names of what it should hold.

    Returns:
        None for a whole one; else a few words, the same kind on every host.
    """
    if jax.process_count() == 1:
        return None
    from jax.experimental import multihost_utils

    found = _unreadable_share(folder, items, jax.process_index(), jax.process_count())
    failed = np.flatnonzero(multihost_utils.process_allgather(np.int32(found is not None)))
    if not failed.size:
        return None
    return found or f"host {failed[0]} cannot read its share"


def _unreadable_share(folder, items, part, parts):
    import tensorstore as ts

    for item in items:
        here = folder / item
        if not (here / "_METADATA").exists():
            return f"{item} has no _METADATA"
        base = str(here.resolve())
        base = f"{base}/" if "://" in base else f"file://{base}/"
        try:
            stored = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
            keys = sorted(stored.list().result())
            if not keys:
                return f"{item} is empty"
            for read in [stored.read(key) for key in keys[part::parts]]:
                if read.result().state != "value":
                    return f"{item} lacks a value"
        except (ValueError, OSError) as error:
            return str(error).splitlines()[0][:200]
    return None
