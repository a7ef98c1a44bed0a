"""How many cores there are for a process in a container, and how many devices are simulated on them."""

import os

import pytest

from crate_jax import cores as found
from crate_jax.config import default_config, override
from crate_jax.distributed import host_cores
from tests.compiling import DEVICES

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


@pytest.mark.parametrize(
    ("batch_size", "cores", "count"), [(128, 2, 2), (128, 6, 4), (24, 6, 3), (15, 2, 1), (7, 4, 1), (128, 1, 1)]
)
def test_a_simulated_device_per_core_has_eight_images_at_least(batch_size, cores, count):
    assert host_cores.num_devices(batch_size, cores) == count


@pytest.mark.parametrize(
    ("flags", "settings", "wanted"),
    [
        ("--xla_a=1", {}, f"--xla_a=1 {DEVICES}=4"),
        ("", {"optimizer.accumulate": 8}, f"{DEVICES}=2"),
        (f"{DEVICES}=1", {}, f"{DEVICES}=1"),
        ("", {"mesh.fsdp": 2}, ""),
        ("", {"batch_size": 8}, ""),
    ],
)
def test_pre_training_on_a_cpu_simulates_a_device_per_core_where_nothing_says_otherwise(
    monkeypatch, flags, settings, wanted
):
    monkeypatch.setattr(host_cores, "available_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setenv("XLA_FLAGS", flags)
    host_cores.use_all_cores(override(default_config(), settings.items()))
    assert os.environ["XLA_FLAGS"] == wanted
