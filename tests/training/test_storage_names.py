"""Local folders whose names look like those of object stores."""

import os

import pytest

from crate_jax.config import default_config, override
from crate_jax.storage import absolute, is_remote, output_folder


@pytest.mark.parametrize("root", ["gs", "s3", "az", "hf"])
def test_a_local_mount_is_no_bucket(root):
    for made in (output_folder(f"/{root}/runs/one"), absolute(f"/{root}/runs/one") / "checkpoints", absolute("x")):
        assert not is_remote(made) and "://" not in str(made)
        assert not os.path.exists(made) and not made.exists()
    assert os.path.normpath(str(absolute(f"/{root}/runs"))) in (f"/{root}/runs", f"//{root}/runs")
    stored = override(default_config(), [("data.data_dir", f"/{root}/pictures")]).data.data_dir
    assert not is_remote(output_folder(stored)) and str(output_folder(f"{root}://b/x")) == f"{root}://b/x"
