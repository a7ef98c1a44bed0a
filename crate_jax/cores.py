"""How many cores and open files there are for this process, in a container, too."""

import contextlib
import math
import os
import pathlib
import resource


def available_cores():
    """Numbers of the cores that this process may use, fewer where a container's quota allows less than all of them."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return cores[: cpu_quota()]


def cpu_quota(mount="/sys/fs/cgroup", groups="/proc/self/cgroup"):
    """Cores' worth of time that this process's control groups allow (versions 1 and 2), rounded up; None: no limit.

    The least of its own group and those above it counts. In a container the path of its group may be that of the host;
    what is mounted is then the group itself, which is found as the one above.
    """
    try:
        lines = pathlib.Path(groups).read_text().splitlines()
    except OSError:  # not Linux
        return None
    quotas = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = pathlib.Path(mount) / controllers
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        folders = [root]
        for part in pathlib.PurePosixPath(group).parts[1:]:
            folders.append(folders[-1] / part)
        for folder in folders:
            with contextlib.suppress(OSError, ValueError):  # no such file; "max"
                quota, period = map(int, " ".join((folder / name).read_text() for name in names).split())
                if quota > 0:
                    quotas.append(max(1, math.ceil(quota / period)))
    return min(quotas, default=None)


def raise_file_limit():
    """Lifts the soft limit of open files to the hard one, which it returns: shards may be more than the usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # a system that forbids it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit if limit != resource.RLIM_INFINITY else 2**20
