"""Hosts with different data are refused and named, by the function and by two real processes."""

import socket
import subprocess
import sys

import pytest
import skimage.data
from PIL import Image

from crate_jax.data.agreement import check_same_fingerprint
from crate_jax.errors import UserError

HOST = """
import sys, jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
from crate_jax.config import default_config
from crate_jax.data.pipeline import train_batches
config = default_config()
config.data.name, config.data.data_dir, config.batch_size = "image_folder", sys.argv[3], 4
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
batches = train_batches(config, 16, 3, sharding)
rows = [shard.data.shape[0] for shard in next(batches)["image"].addressable_shards]
batches.close()
print("rows", rows)
"""


def test_the_odd_ones_are_named():
    check_same_fingerprint({"a": "1", "b": "1"})
    check_same_fingerprint({})
    with pytest.raises(UserError, match="b disagree with a and 1 more"):
        check_same_fingerprint({"a": "1", "b": "2", "c": "1"})


@pytest.mark.parametrize("differ", [False, True])
def test_two_processes(tmp_path, differ):
    picture = Image.fromarray(skimage.data.astronaut()).resize((20, 20))
    for host in range(2):
        for number in range(12 - host * differ):
            path = tmp_path / str(host) / "class" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, address, str(host), str(tmp_path / str(host))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for host in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    for process, output in zip(running, outputs, strict=True):
        if differ:
            assert process.returncode and "UserError: the hosts see different versions" in output, output
        else:
            assert not process.returncode and "rows [" in output, output
