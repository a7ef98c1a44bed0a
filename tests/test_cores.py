"""How many cores there are for a process in a container."""

import os

import pytest

from crate_jax import cores as found

V1, V2 = "7:pids:/a/b\n3:cpu,cpuacct:/a/b\n1:name=systemd:/\n", "0::/a/b\n"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        (V2, {"cpu.max": "150000 100000"}, 2),  # a container: what is mounted is the group itself
        (V2, {"cpu.max": "5000 100000"}, 1),
        (V2, {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        (V2, {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"}, 2),
        (V2, {"cpu.max": "max 100000"}, None),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 3),
        (V1, {"cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1", "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000"}, None),
        (V1 + V2, {"cpu,cpuacct/a/cpu.cfs_quota_us": "50000", "cpu,cpuacct/a/cpu.cfs_period_us": "50000"}, 1),
        (V2, {}, None),
        (None, {}, None),
    ],
)
def test_a_containers_quota(tmp_path, groups, files, cores):
    for name, text in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    if groups is not None:
        (tmp_path / "groups").write_text(groups)
    assert found.cpu_quota(tmp_path / "mount", tmp_path / "groups") == cores


def test_a_quota_bounds_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5, 7}, raising=False)
    for quota, cores in ((None, [0, 1, 5, 7]), (3, [0, 1, 5]), (9, [0, 1, 5, 7])):
        monkeypatch.setattr(found, "cpu_quota", lambda quota=quota: quota)
        assert found.available_cores() == cores
