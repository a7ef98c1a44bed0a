"""Several processes on the loopback device, for tests."""

import os
import pathlib
import re
import subprocess
import sys
import time

from tests.compiling import QUICK
from tests.gcs import free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Pod:
    """A `launch/local_pod.py` whose output is read as it comes."""

    def __init__(self, words, *, processes, devices, grace=60):
        launcher = [sys.executable, str(ROOT / "launch" / "local_pod.py")]
        launcher += [f"--processes={processes}", f"--devices={devices}", f"--grace_seconds={grace}", "--", *words[3:]]
        self.lines = []
        self.process = subprocess.Popen(launcher, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.pids = [int(pid) for pid in self.wait_for(r"local_pod: pids (.*)")[1].split()]

    def wait_for(self, pattern):
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(pattern, line)
            if found:
                return found
        raise AssertionError(f"no {pattern!r} in:\n{''.join(self.lines)}")

    def end(self, timeout=300):
        """(exit code, all that was printed, seconds it took from now)."""
        begin = time.monotonic()
        rest, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, "".join(self.lines) + rest, time.monotonic() - begin


def together(*commands, at_start=None, alone=False, timeout=240):
    """Hosts of one run with a command line each.

    Args:
        commands: a list of words for each.
        at_start: a function of the processes, called when all have started.
        alone: each waits for a partner that never starts.
        timeout: seconds that each may take.

    Returns:
        [(exit code, standard error)].
    """
    hosts, cluster = [], {"CRATE_JAX_PROCESSES": str(len(commands)), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK}
    for number, words in enumerate(commands):
        if alone or not hosts:
            cluster["CRATE_JAX_COORDINATOR"] = f"127.0.0.1:{free_port()}"
        environment = os.environ | cluster | {"CRATE_JAX_PROCESS": str(number)}
        hosts.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment))
    try:
        if at_start:
            at_start(hosts)
        texts = [host.communicate(timeout=timeout)[1] for host in hosts]
        return [(host.returncode, text) for host, text in zip(hosts, texts, strict=True)]
    finally:
        for host in hosts:
            host.kill()
