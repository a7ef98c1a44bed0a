"""Hosts compare what they are told: each learns who differs, and in what."""

import types

import pytest

from crate_jax import processes
from crate_jax.errors import UserError


class Store:
    """A coordination service's store, in one process."""

    def __init__(self):
        self.texts = {}

    def key_value_set(self, key, text):
        self.texts[key] = text

    def blocking_key_value_get(self, key, _):
        return self.texts[key]

    def wait_at_barrier(self, *_):
        """The test calls one host after the other."""

    def key_value_dir_get(self, key):
        return [pair for pair in self.texts.items() if pair[0].startswith(key)]


def test_hosts_compare_what_they_are_told(monkeypatch):
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)

    def on(store, host, facts, sentence=None):
        monkeypatch.setattr(processes, "cluster", lambda: types.SimpleNamespace(client=store))
        monkeypatch.setattr(processes.jax, "process_index", lambda: host)
        monkeypatch.setattr(processes, "_counter", iter([7]))  # the same question on both
        processes.same_on_all_hosts(facts, sentence)

    first = {"seed": "0", "batch_size": "8"}
    for second, sentence, says in (
        ({"seed": "1", "batch_size": "8"}, None, r"do not agree: seed=1 is 0 on host 0"),
        ({"seed": "0", "a": "2"}, None, r"batch_size=None is 8 on host 0; a=2 is None on host 0"),
        ({"seed": "1"}, "another folder", r"^another folder$"),
    ):
        store = Store()
        on(store, 0, first)
        on(store, 1, first)
        with pytest.raises(UserError, match=says):
            on(store, 1, second, sentence)
        with pytest.raises(UserError, match="host 1: .*" + says.strip("^$")):
            on(store, 0, first, sentence)
