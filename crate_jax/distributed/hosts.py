"""The hosts of a run: joining them, and never waiting for one that is gone.

Each host says to JAX's coordination service that it is alive; one that says nothing for
`distributed.lost_host_seconds` is lost. A host that fails tells the others why through that service, and all end with
its exit code. A run that loses a host, or stalls, ends with `LOST_HOST`: start it again. `signals` says how a run is
stopped.
"""

import contextlib
import ctypes
import functools
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback

import jax

from crate_jax.distributed.cluster import find_cluster
from crate_jax.errors import LOST_HOST, UserError, first_line
from crate_jax.processes import cluster
from crate_jax.storage_errors import explained

logger = logging.getLogger(__name__)

ABORTS = (0, 9, 2)  # jax from here on aborts where it loses a host, which can be caught; before, it exits with code 1
_LOOK_SECONDS = 0.5  # between looks whether another host has failed
_LONGEST_SECONDS = 7 * 86400  # between the ends of two hosts; one that is lost ends the others at once
_NOTICE_SECONDS = 2.0  # that a failing host gives the others to hear why
_ending: list[int] = []  # the exit code, once it is decided: what else goes wrong from then on is a consequence


class LostHost(UserError):
    """Another host is gone; the same command, rerun on all hosts, resumes from the last checkpoint."""

    exit_code = LOST_HOST


@contextlib.contextmanager
def joined(settings, signals=None, trains=True):
    """Joins the other processes of a run, if there are any; to be entered before jax is first used.

    Only process 0 prints to standard output then, and logs what is no warning.

    Args:
        settings: the config's `distributed`.
        signals: a `signals.ProgramSignals`, or None.
        trains: whether a training is within, which stops all hosts at the same step after a SIGTERM to any; else a
            SIGTERM ends them at once.

    Raises:
        LostHost: the processes do not find each other.
        SystemExit: one of them was preempted while the others were starting.
    """
    found = None if jax.distributed.is_initialized() else find_cluster()
    if found is None:
        if signals is not None:
            signals.started()
        yield
        return
    _exit_code_of_aborts()
    timeouts = {"initialization_timeout": settings.join_seconds}
    timeouts["heartbeat_timeout_seconds"] = settings.lost_host_seconds
    try:
        jax.distributed.initialize(**found, **timeouts)
    except (RuntimeError, ValueError, OSError) as error:
        raise LostHost(
            f"the processes of this run did not find each other ({first_line(error)[:300]}); start all of them within "
            f"distributed.join_seconds={settings.join_seconds}, with the same coordinator."
        ) from error
    ended = threading.Event()
    threading.Thread(target=_watch_others, args=(ended,), name="crate-jax hosts", daemon=True).start()
    try:
        if _any_noted(signals, settings.join_seconds):
            _say("preempted before the first step; rerun the same command to resume.")
            raise SystemExit(settings.preemption_exit_code)
        if not trains and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, functools.partial(_preempted, settings.preemption_exit_code))
        if jax.process_index() == 0:
            logger.info("%d processes with %d devices", jax.process_count(), jax.device_count())
            if jax.__version_info__ < ABORTS:
                logger.warning(
                    "jax %s ends the hosts that lost another one with exit code 1, not %d, and launchers do not retry "
                    "that; for several hosts, install jax %s or later",
                    *(jax.__version__, LOST_HOST, ".".join(map(str, ABORTS))),
                )
        else:
            logging.getLogger().setLevel(logging.WARNING)
        with contextlib.redirect_stdout(sys.stdout if jax.process_index() == 0 else open(os.devnull, "w")):
            yield
        # one that draws figures, or has more to compile, is minutes behind: JAX's own end gives it five
        cluster().client.wait_at_barrier("crate_jax/done", _LONGEST_SECONDS * 1000)
    except SystemExit:
        ended.set()
        jax.distributed.shutdown()
        raise
    except BaseException as error:
        abandon(error)
        raise
    ended.set()
    jax.distributed.shutdown()


def _preempted(code, *_):
    """A signal handler: ends this process and all others."""
    error = UserError("preempted; run the same command again.")
    error.exit_code = code
    abandon(error)


def _any_noted(signals, seconds):
    """Whether any host was preempted while it started. Every host has to call it."""
    client = cluster().client
    if signals is not None and signals.noted is not None:
        client.key_value_set(f"crate_jax/stopped/{cluster().process_id}", "1")
    client.wait_at_barrier("crate_jax/joined", seconds * 1000)
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
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # the last: a signal while this stream is written
        sys.stdout.flush()
        sys.stderr.write(f"crate-jax: host {cluster().process_id}: {sentence}\n")
        sys.stderr.flush()


def _watch_others(ended):
    """Ends this process with the exit code of a host that failed; a thread."""
    while not ended.wait(_LOOK_SECONDS):
        try:
            failed = cluster().client.key_value_dir_get("crate_jax/failed/")
        except Exception:  # the service is gone: then JAX itself ends this process
            return
        for key, text in failed:
            number, (code, sentence) = key.rpartition("/")[2], json.loads(text)
            if int(number) != cluster().process_id and not ended.is_set() and not _ending:
                _ending.append(code)
                _say(f"host {number} failed: {sentence}")
                if cluster().process_id == 0:
                    time.sleep(_NOTICE_SECONDS)  # the service ends with this process, and the others have to hear too
                os._exit(code)


def abandon(error):
    """Ends a process that failed while others wait for it: says why, to them too. Alone, it does nothing.

    An orderly end would wait, at the next collective, for hosts that wait for this one.

    Args:
        error: the exception that stopped it.
    """
    if cluster().num_processes == 1:
        return
    if _ending:
        time.sleep(2 * _NOTICE_SECONDS)
        os._exit(_ending[0])
    told = explained(error)
    code = getattr(told, "exit_code", 1)
    if told is not None:
        sentence = str(told)
    elif isinstance(error, KeyboardInterrupt):
        sentence, code = "interrupted", 130
    elif _is_about_another_host(error):
        code = LOST_HOST
        sentence = (
            f"another host of this run was lost ({first_line(error)[:300]}); its own log says why. Run the same "
            f"command again to resume."
        )
    else:
        traceback.print_exception(error)
        sentence = f"this host failed, and leaves the others ({type(error).__name__}: {first_line(error)[:300]})"
    _ending.append(code)
    _say(sentence)
    text = json.dumps([code, sentence])
    teller = threading.Thread(target=_tell, args=(text,), daemon=True)
    teller.start()
    time.sleep(_NOTICE_SECONDS)
    os._exit(code)


def _tell(text):
    with contextlib.suppress(Exception):  # the service may be what is gone
        cluster().client.key_value_set(f"crate_jax/failed/{cluster().process_id}", text)


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
