"""The hosts of a run: joining them, checking that they agree, and never waiting for one that is gone.

Each host says to JAX's coordination service that it is alive; one that says nothing for
`distributed.lost_host_seconds` is lost. A host that fails tells the others why through that service, and all end with
its exit code. A run that loses a host, or stalls, ends with `LOST_HOST`: start it again. `signals` says how a run is
stopped.
"""

import contextlib
import ctypes
import itertools
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback

import jax
import numpy as np

from crate_jax.distributed.cluster import find_cluster
from crate_jax.errors import UserError

logger = logging.getLogger(__name__)

LOST_HOST = 175  # exit code of a run that lost a host or stalled: launchers start it again
_LOOK_SECONDS = 0.5  # between looks whether another host has failed
_NOTICE_SECONDS = 2.0  # that a failing host gives the others to hear why
_JOIN_SECONDS = 300
_counter = itertools.count()
_ending: list[int] = []  # the exit code, once it is decided: what else goes wrong from then on is a consequence


class LostHost(UserError):
    """Another host is gone; the same command, rerun on all hosts, resumes from the last checkpoint."""

    exit_code = LOST_HOST


@contextlib.contextmanager
def joined(settings, signals=None):
    """Joins the other processes of a run, if there are any; to be entered before jax is first used.

    Only process 0 prints to standard output then, and logs what is no warning.

    Args:
        settings: the config's `distributed`.
        signals: a `signals.ProgramSignals`, or None.

    Raises:
        LostHost: the processes do not find each other.
        SystemExit: one of them was preempted while the others were starting.
    """
    cluster = None if jax.distributed.is_initialized() else find_cluster()
    if cluster is None:
        if signals is not None:
            signals.started()
        yield
        return
    _exit_code_of_aborts()
    try:
        jax.distributed.initialize(**cluster, heartbeat_timeout_seconds=settings.lost_host_seconds)
    except (RuntimeError, ValueError, OSError) as error:
        raise LostHost(
            f"the processes of this run did not find each other ({_first_line(error)}); start all of them at the same "
            f"time, with the same coordinator."
        ) from error
    ended = threading.Event()
    threading.Thread(target=_watch_others, args=(ended,), name="crate-jax hosts", daemon=True).start()
    try:
        if _any_noted(signals):
            _say("preempted before the first step; rerun the same command to resume.")
            raise SystemExit(settings.preemption_exit_code)
        if jax.process_index() == 0:
            logger.info("%d processes with %d devices", jax.process_count(), jax.device_count())
        else:
            logging.getLogger().setLevel(logging.WARNING)
        with contextlib.redirect_stdout(sys.stdout if jax.process_index() == 0 else open(os.devnull, "w")):
            yield
    except SystemExit:
        ended.set()
        jax.distributed.shutdown()
        raise
    except BaseException as error:
        abandon(error)
        raise
    ended.set()
    jax.distributed.shutdown()


def _client():
    """The coordination service's client: a store of texts and barriers, without any device."""
    from jax._src import distributed

    return distributed.global_state.client


def _any_noted(signals):
    """Whether any host was preempted while it started. Every host has to call it."""
    client = _client()
    if signals is not None and signals.noted is not None:
        client.key_value_set(f"crate_jax/stopped/{jax.process_index()}", "1")
    client.wait_at_barrier("crate_jax/joined", _JOIN_SECONDS * 1000)
    if signals is not None:
        signals.joined()
    return bool(client.key_value_dir_get("crate_jax/stopped/"))


def _exit_code_of_aborts():
    """jaxlib aborts, and raises nothing, where it loses a host: makes that an end with `LOST_HOST` and a sentence.

    Python's own handlers run after the C code, which never returns from an abort; so this one is libc's.
    """
    if not hasattr(ctypes, "CDLL") or sys.platform == "win32":
        return

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def aborted(_number):
        if not _ending:
            _say("another host of this run was lost; its own log says why. Run the same command again to resume.")
        os._exit(_ending[0] if _ending else LOST_HOST)

    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(int(signal.SIGABRT), aborted)
    _exit_code_of_aborts.kept = aborted  # libc holds a bare pointer to it


def _say(sentence):
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.write(f"crate-jax: host {jax.process_index()}: {sentence}\n")
        sys.stderr.flush()


def _watch_others(ended):
    """Ends this process with the exit code of a host that failed; a thread."""
    while not ended.wait(_LOOK_SECONDS):
        try:
            failed = _client().key_value_dir_get("crate_jax/failed/")
        except Exception:  # the service is gone: then JAX itself ends this process
            return
        for key, text in failed:
            number, (code, sentence) = key.rpartition("/")[2], json.loads(text)
            if int(number) != jax.process_index() and not ended.is_set() and not _ending:
                _ending.append(code)
                _say(f"host {number} failed: {sentence}")
                if jax.process_index() == 0:
                    time.sleep(_NOTICE_SECONDS)  # the service ends with this process, and the others have to hear too
                os._exit(code)


def abandon(error):
    """Ends a process that failed while others wait for it: says why, to them too. Alone, it does nothing.

    An orderly end would wait, at the next collective, for hosts that wait for this one.

    Args:
        error: the exception that stopped it.
    """
    if jax.process_count() == 1:
        return
    if _ending:
        time.sleep(2 * _NOTICE_SECONDS)
        os._exit(_ending[0])
    code = getattr(error, "exit_code", 1)
    if isinstance(error, UserError):
        sentence = str(error)
    elif isinstance(error, KeyboardInterrupt):
        sentence, code = "interrupted", 130
    elif _is_about_another_host(error):
        code = LOST_HOST
        sentence = (
            f"another host of this run was lost ({_first_line(error)}); its own log says why. Run the same command "
            f"again to resume."
        )
    else:
        traceback.print_exception(error)
        sentence = f"this host failed, and leaves the others ({type(error).__name__}: {_first_line(error)})"
    _ending.append(code)
    _say(sentence)
    text = json.dumps([code, sentence])
    teller = threading.Thread(target=_tell, args=(text,), daemon=True)
    teller.start()
    time.sleep(_NOTICE_SECONDS)
    os._exit(code)


def _tell(text):
    with contextlib.suppress(Exception):  # the service may be what is gone
        _client().key_value_set(f"crate_jax/failed/{jax.process_index()}", text)


_SIGNS: tuple[str, ...] = (
    "connection closed",
    "connection reset",
    "connection refused",
    "broken pipe",
    "gloo",
    "heartbeat",
)
_SIGNS += ("coordination service", "coordinationservice", "another task", "unavailable", "socket closed", "barrier")


def _is_about_another_host(error):
    """XLA's collectives and JAX's coordination service say so in words only."""
    text = str(error).lower()
    return isinstance(error, RuntimeError | ValueError) and any(sign in text for sign in _SIGNS)


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


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
        UserError: naming what differs from host 0.
    """
    if jax.process_count() == 1:
        return
    key = f"crate_jax/facts/{next(_counter)}"
    if jax.process_index() == 0:
        _client().key_value_set(key, json.dumps(facts))
        return  # a host that differs ends this one
    first = json.loads(_client().blocking_key_value_get(key, _JOIN_SECONDS * 1000))
    names = [name for name in {**first, **facts} if first.get(name) != facts.get(name)]
    if names:
        differ = "; ".join(f"{name}={facts.get(name)} is {first.get(name)} on host 0" for name in names[:5])
        raise UserError(
            sentence or f"the hosts of this run do not agree: {differ}. Start every host with the same command."
        )
