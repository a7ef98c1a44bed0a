#!/usr/bin/env python3
"""Several hosts on one machine: P processes of a crate-jax command with K simulated devices each.

    python launch/local_pod.py --processes=4 --devices=2 -- pretrain --config=quickstart_digits --workdir=D

For trying out what a pod does, and for tests. Ends with the exit code of the first process that fails; the others then
have some time to notice by themselves, and are killed. SIGTERM, Ctrl-C and SIGHUP are passed on to all, once.
"""

import argparse
import contextlib
import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
ROOT = pathlib.Path(__file__).resolve().parent.parent


def free_port():
    """A port of the loopback device that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def die_with_parent():
    """So that nothing is left behind if this launcher itself is killed (Linux)."""
    if LIBC is not None:
        LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def start(command, process, processes, devices, port):
    """One process of the pod.

    Args:
        command: of crate-jax, with its arguments.
        process: its number.
        processes: how many there are.
        devices: that XLA simulates for it.
        port: of process 0, where they meet.

    Returns:
        A `subprocess.Popen`, its output in one pipe.
    """
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in f]
    environment = {
        **os.environ,
        "CRATE_JAX_COORDINATOR": f"127.0.0.1:{port}",
        "CRATE_JAX_PROCESSES": str(processes),
        "CRATE_JAX_PROCESS": str(process),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join([*flags, f"--xla_force_host_platform_device_count={devices}"]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "crate_jax", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=die_with_parent,
        start_new_session=True,  # else a terminal's Ctrl-C comes twice, and the second one ends a run without saving
    )


def pass_on(pipe, process):
    """Prints a process's lines with its number before them."""
    for line in pipe:
        with contextlib.suppress(OSError, ValueError):  # nobody reads this any more; a full pipe would stop the process
            print(f"[{process}] {line}", end="", flush=True)


def supervise(pod, grace_seconds):
    """Waits for the pod.

    Args:
        pod: list of Popen.
        grace_seconds: that the others have to end after one has failed.

    Returns:
        0, or the exit code of the first to fail (128 + the signal's number, if a signal ended it).
    """
    first, deadline = 0, None
    while any(process.poll() is None for process in pod):
        failed = [(n, p.returncode) for n, p in enumerate(pod) if p.poll() not in (None, 0)]
        if failed and deadline is None:
            number, first = failed[0]
            deadline = time.monotonic() + grace_seconds
            ended = f"was ended by signal {-first}" if first < 0 else f"ended with exit code {first}"
            print(f"local_pod: process {number} (pid {pod[number].pid}) {ended}", file=sys.stderr, flush=True)
        if deadline is not None and time.monotonic() > deadline:
            for process in pod:
                process.kill()
        time.sleep(0.05)
    if first == 0:
        first = next((p.returncode for p in pod if p.returncode), 0)
    return 128 - first if first < 0 else first


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="how many (hosts)")
    parser.add_argument("--devices", type=int, default=1, help="simulated devices of each")
    parser.add_argument(
        "--grace_seconds", type=float, default=120.0, help="until the others are killed after a failure"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ..., as crate-jax takes it")
    parsed = parser.parse_args(arguments)
    command = parsed.command[1:] if parsed.command[:1] == ["--"] else parsed.command
    if not command or parsed.processes < 1 or parsed.devices < 1:
        parser.error("give --processes, --devices (1 or more), and after -- a command, such as: -- pretrain --config=F")
    port = free_port()
    pod = [start(command, n, parsed.processes, parsed.devices, port) for n in range(parsed.processes)]

    def forward(number, _):
        for process in pod:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)
    print("local_pod: pids " + " ".join(str(process.pid) for process in pod), file=sys.stderr, flush=True)
    printers = [threading.Thread(target=pass_on, args=(p.stdout, n), daemon=True) for n, p in enumerate(pod)]
    for printer in printers:
        printer.start()
    code = supervise(pod, parsed.grace_seconds)
    for printer in printers:
        printer.join(5)
    return code


if __name__ == "__main__":
    sys.exit(main())
