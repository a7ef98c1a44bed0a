"""Files in an object store where only local ones will do: one sentence, and no folder `gs:` here."""

import pytest

from crate_jax.cli.main import main


@pytest.mark.parametrize(
    "words",
    [
        ["convert", "--to=torch", "gs://bucket/x.pth", "x.pth"],
        ["convert", "--to=torch", "x.pth", "gs://bucket/y.pth"],
        ["probe", "--checkpoint=gs://bucket/x.safetensors", "--config=quickstart_digits", "--out=here"],
    ],
)
def test_a_remote_file_is_refused(tmp_path, monkeypatch, capsys, words):
    from etils.epath import gpath

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpath._GPath, "exists", lambda self: False, raising=True)
    assert main(words) == 1
    assert "gs://bucket" in capsys.readouterr().err.splitlines()[-1] and not list(tmp_path.iterdir())
