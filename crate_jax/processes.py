"""What the processes of a run tell each other: they wait, agree on numbers, and refuse to differ."""

import itertools
import json

import jax
import numpy as np

from crate_jax.errors import UserError

_SECONDS = 300  # that one waits for the others
_counter = itertools.count()


def cluster():
    """What JAX knows of the other processes.

    Its attributes are `client` (a store of texts, and barriers), `process_id` and `num_processes`.
    `jax.process_index` would start the devices, which waits for every process: one that leaves must not.
    """
    from jax._src import distributed

    return distributed.global_state


def wait_for_all(what):
    """Until every process is here; alone, at once.

    Args:
        what: a name for the place, the same in all of them.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def agreed(value):
    """Process 0's whole number, in every process.

    Args:
        value: an int; -1 is commonly "none".
    """
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(value))


def of_all_hosts(values):
    """Every process's numbers, in every process.

    Args:
        values: a list of numbers, equally many in all of them.

    Returns:
        float32, a row per process.
    """
    row = np.asarray(values, np.float32)
    if jax.process_count() == 1:
        return row[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(row))


def same_on_all_hosts(facts, sentence=None):
    """Refuses hosts that would not do the same; every host has to call it.

    Args:
        facts: dictionary from name to text, such as a config's leaves.
        sentence: of the error; None names what differs.

    Raises:
        UserError: (on every host) naming what differs from host 0.
    """
    if jax.process_count() == 1:
        return
    host, client, key = jax.process_index(), cluster().client, f"crate_jax/facts/{next(_counter)}"
    if host == 0:
        client.key_value_set(f"{key}/first", json.dumps(facts))
    first = json.loads(client.blocking_key_value_get(f"{key}/first", _SECONDS * 1000))
    names = [name for name in {**first, **facts} if first.get(name) != facts.get(name)]
    if names:
        differ = "; ".join(f"{name}={facts.get(name)} is {first.get(name)} on host 0" for name in names[:5])
        sentence = sentence or (
            f"the hosts of this run do not agree: {differ}. Start every host with the same command."
        )
        client.key_value_set(f"{key}/differ/{host}", sentence)
    client.wait_at_barrier(f"{key}/compared", _SECONDS * 1000)
    found = client.key_value_dir_get(f"{key}/differ/")
    if found:
        raise UserError(sentence if names else f"host {found[0][0].rpartition('/')[2]}: {found[0][1]}")
