"""Local folders whose names look like those of object stores."""

import os

import pytest
from etils import epath

from crate_jax.cli.main import main
from crate_jax.config import default_config, override
from crate_jax.errors import UserError
from crate_jax.storage import absolute, is_remote, make_folder, output_folder, write_once


@pytest.mark.parametrize("root", ["gs", "s3", "az", "hf"])
def test_a_local_mount_is_no_bucket(root):
    for made in (output_folder(f"/{root}/runs/one"), absolute(f"/{root}/runs/one") / "checkpoints", absolute("x")):
        assert not is_remote(made) and "://" not in str(made)
        assert not os.path.exists(made) and not made.exists()
    assert os.path.normpath(str(absolute(f"/{root}/runs"))) in (f"/{root}/runs", f"//{root}/runs")
    stored = override(default_config(), [("data.data_dir", f"/{root}/pictures")]).data.data_dir
    assert not is_remote(output_folder(stored)) and str(output_folder(f"{root}://b/x")) == f"{root}://b/x"


@pytest.mark.parametrize("address", ["http://a/b", "https://a/b", "file:///a", "ftp://a/b"])
def test_an_address_that_is_no_store_is_refused(address, capsys, has_tfds):
    with pytest.raises(UserError, match=r"no files are read or written at \w+://; name a local path, or one in gs://"):
        is_remote(address)
    elsewhere = ["pretrain", "--config=quickstart", "--workdir=x", f"--config.data.data_dir={address}"]
    lines = [
        ["pretrain", "--config=quickstart", f"--workdir={address}"],
        [*elsewhere, "--config.data.name=image_folder"],
        ["compare", address, "--out=x"],
    ]
    if has_tfds:
        lines.append([*elsewhere, "--config.data.name=x"])
    for words in lines:
        assert main(words) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"crate-jax: {address}: no files are read"), said


def test_a_missing_library_of_a_store_is_named(monkeypatch, capsys):
    def missing(_):
        raise ImportError("Please install gcsfs to access Google Storage")  # fsspec's words

    monkeypatch.setattr(type(epath.Path("gs://bucket")), "exists", missing)
    with pytest.raises(UserError, match=r"^gs://b cannot be reached: this needs gcsfs; pip install 'crate-jax\[gcs\]'"):
        make_folder(epath.Path("gs://b/run"))
    assert main(["compare", "gs://b/run", "--out=x"]) == 1
    assert "needs gcsfs; pip install 'crate-jax[gcs]'" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    with pytest.raises(OSError):
        write_once(tmp_path / "x", b"bytes")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    write_once(tmp_path / ("n" * 250), "é")  # the longest names as well
    assert (tmp_path / ("n" * 250)).read_bytes() == "é".encode()
