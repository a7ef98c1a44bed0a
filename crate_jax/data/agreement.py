"""Hosts that see different data are noticed before the first step.

Each host reads its own copy or mount; if one misses a folder, index 17 is another picture there, and the run is
silently wrong. The fingerprint of a source is a hash of its whole index, so comparing them compares everything but the
pixels.
"""

import collections
import socket

import numpy as np

from crate_jax.errors import UserError

LENGTH = 256  # bytes a host sends


def check_same_fingerprint(fingerprints_by_host, what="the data set"):
    """Refuses hosts that disagree.

    Args:
        fingerprints_by_host: {name of a host: fingerprint of its source}.
        what: they were to see, for the message.

    Raises:
        UserError: two differ; the hosts of the smaller groups are named.
    """
    hosts_by_fingerprint = collections.defaultdict(list)
    for host, fingerprint in fingerprints_by_host.items():
        hosts_by_fingerprint[fingerprint].append(host)
    if len(hosts_by_fingerprint) <= 1:
        return
    groups = sorted(hosts_by_fingerprint.values(), key=len, reverse=True)
    odd = "; ".join(", ".join(hosts[:8]) + (" ..." if len(hosts) > 8 else "") for hosts in groups[1:])
    raise UserError(
        f"the hosts see different versions of {what}: {odd} disagree with {groups[0][0]}"
        f"{f' and {len(groups[0]) - 1} more' if len(groups[0]) > 1 else ''}; "
        "give every host the same data.data_dir content."
    )


def check_hosts_agree(source):
    """Compares a source with what the other hosts of this run opened; every host must call it.

    Args:
        source: a Source.

    Raises:
        UserError: on every host, if any two differ.
    """
    import jax

    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    message = f"{source.fingerprint} host {jax.process_index()} ({socket.gethostname()})".encode()[:LENGTH]
    sent = np.zeros(LENGTH, np.uint8)
    sent[: len(message)] = np.frombuffer(message, np.uint8)
    received = np.asarray(multihost_utils.process_allgather(sent))
    words = [bytes(row).rstrip(b"\0").decode().split(" ", 1) for row in received]
    check_same_fingerprint(
        {host: fingerprint for fingerprint, host in words}, f"data.name={source.name}, split {source.split!r}"
    )
