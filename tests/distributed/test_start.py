"""Hosts that start, wait for each other and are stopped, with nothing to compute: one code and a sentence for all."""

import pathlib
import re
import signal
import sys
import time

import jax
import pytest

from crate_jax.distributed.hosts import ABORTS
from tests.distributed.pods import together

WAITS = """
import sys, time, types
from crate_jax.cli import main

def run(arguments):
    print("joined", file=sys.stderr, flush=True)
    time.sleep(100)

command = types.ModuleType("crate_jax.cli.wait")
command.run, command.add_arguments = run, lambda parser: parser.add_argument("--workdir")
sys.modules["crate_jax.cli.wait"] = command
main.COMMANDS["wait"], main.COMPUTES = "waits", {"wait"}
sys.exit(main.main(["wait", *sys.argv[1:]]))
"""
WORDS = [sys.executable, "-c", WAITS]
LOST = 175 if jax.__version_info__ >= ABORTS else 1  # older ones exit by themselves


def until_joined(hosts):
    for host in hosts:
        assert "joined\n" in iter(host.stderr.readline, ""), "it ended"


def test_a_host_that_is_told_to_stop_while_it_starts_stops_all():
    def stop(hosts):
        caught = 0
        while not caught >> (signal.SIGTERM - 1) & 1:  # until the program looks at signals; jax is not there yet
            caught = int(re.search(r"SigCgt:\s*(\w+)", pathlib.Path(f"/proc/{hosts[1].pid}/status").read_text())[1], 16)
            time.sleep(0.01)
        hosts[1].send_signal(signal.SIGTERM)

    ends = together(WORDS, WORDS, at_start=stop)
    assert [code for code, _ in ends] == [143, 143], ends
    assert "preempted before the first step" in ends[0][1] and "joined" not in ends[0][1]


def test_a_command_that_does_not_train_is_stopped_on_all_hosts():
    def stop(hosts):
        until_joined(hosts)
        hosts[1].send_signal(signal.SIGTERM)

    ends = together(WORDS, WORDS, at_start=stop)
    assert [code for code, _ in ends] == [143, 143], ends
    assert "host 1 failed: preempted; run the same command again" in ends[0][1]


def test_a_host_that_waits_for_others_in_vain_gives_up():
    words = [*WORDS, "--config.distributed.join_seconds=3"]
    ends = together(words, words, alone=True)
    assert [code for code, _ in ends] == [LOST, LOST], ends
    assert LOST == 1 or all("crate-jax: " in text and "Traceback" not in text for _, text in ends), ends


def test_a_host_that_falls_silent_is_given_up():
    """Frozen, not dead: its connections stay open, so nothing but the missing heartbeats tells the other."""

    def freeze(hosts):
        until_joined(hosts)
        hosts[1].send_signal(signal.SIGSTOP)
        hosts[0].wait(60)
        hosts[1].kill()

    words = [*WORDS, "--config.distributed.lost_host_seconds=4"]
    (code, text), _ = together(words, words, at_start=freeze)
    assert code == LOST, text
    assert ("host 0: another host of this run was lost" if LOST > 1 else "another task died") in text, text


ENDS_LATER = """
import functools, jax, sys, time
from crate_jax.config import default_config
from crate_jax.distributed.hosts import joined
jax.distributed.initialize = functools.partial(jax.distributed.initialize, shutdown_timeout_seconds=1)
with joined(default_config().distributed):
    time.sleep(4 * jax.process_index())
"""


@pytest.mark.skipif(jax.__version_info__ < ABORTS, reason="its time limit cannot be set")
def test_a_host_that_is_done_waits_for_the_others():
    """`analyze` on three hosts ended with 175 after its report: two compiled for five minutes longer than the first."""
    ends = together(*[[sys.executable, "-c", ENDS_LATER]] * 2)
    assert [code for code, _ in ends] == [0, 0], ends
