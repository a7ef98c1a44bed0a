"""What a command line meets before and after its command: targets, platforms, readers that left."""

import errno
import os
import socket
import subprocess
import sys

import pytest
from etils import epath

from crate_jax.cli.main import main
from crate_jax.errors import UserError
from crate_jax.evaluation.results import Result
from crate_jax.evaluation.subject import Subject
from crate_jax.storage import check_writable


def test_results_that_could_not_be_written_are_refused_before_they_are_computed(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    for words in (
        ["knn", f"--workdir={tmp_path}", f"--out={tmp_path}/file"],
        ["features", f"--workdir={tmp_path}", "--split=test", f"--out={tmp_path}/file/x.npz"],
        ["pretrain", "--config=quickstart_digits", f"--workdir={tmp_path}/file/run"],
        ["segment", f"--workdir={tmp_path}/file"],
        ["export", f"--workdir={tmp_path}", "--to=stablehlo", f"--out={tmp_path}/file/encoder"],
        ["convert", "--to=torch", "in.pth", f"{tmp_path}/file/out.pth"],
        ["convert", "--to=flax", "in.pth", f"{tmp_path}/file"],
    ):
        assert main(words) == 1
        assert "is a file; name a folder" in capsys.readouterr().err
    for words in (
        ["export", f"--workdir={tmp_path}", "--to=stablehlo", f"--out={tmp_path}"],
        ["features", f"--workdir={tmp_path}", "--split=test", f"--out={tmp_path}"],
        ["convert", "--to=safetensors", "in.pth", f"{tmp_path}"],
    ):
        assert main(words) == 1
        assert "is a folder; name the file to write" in capsys.readouterr().err
    # a file that is there is written anew, in a folder of any name
    (tmp_path / "a[b]").mkdir()
    (tmp_path / "a[b]" / "file").write_text("")
    assert main(["export", f"--workdir={tmp_path}", "--to=stablehlo", f"--out={tmp_path}/a[b]/file"]) == 1
    assert "holds no run" in capsys.readouterr().err
    assert main(["pretrain", "--config=quickstart_digits", "--workdir="]) == 1
    assert "--workdir= is empty" in capsys.readouterr().err
    assert main(["compare", "a", "--out="]) == 1
    assert "--out= is empty" in capsys.readouterr().err
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="cannot be written to"):
        check_writable(tmp_path / "new" / "folder", "--out")
    monkeypatch.setattr("crate_jax.storage.epath.Path", Unreachable)
    with pytest.raises(UserError, match=r"^gs://bucket cannot be reached: no route to host; see that"):
        check_writable("gs://bucket/x", "--out")


def test_a_result_stays_where_it_was_trained_if_the_workdir_cannot_be_written(tmp_path, monkeypatch, caplog):
    def refuse(folder, flag):
        raise UserError(f"{flag}={folder}: {folder} cannot be written to; name another folder.")

    monkeypatch.setattr("crate_jax.evaluation.subject.check_writable", refuse)
    subject = Subject(None, None, None, epath.Path(tmp_path / "run"), "run", own_data=("digits", "test"))
    result = Result("finetune", {"data": {"name": "digits", "split": "test"}})
    assert subject.save(result, also=tmp_path / "out") == tmp_path / "out" / "finetune.json"
    assert not (tmp_path / "run").exists() and "has no copy in the workdir" in caplog.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["knn", "--workdir=~/run"], "/run holds no run"),
        (["probe", "--checkpoint=~/x.pth", "--config=probe_cifar10", "--out=~/out"], "/x.pth: there is no such file"),
        (["export", "--workdir=~/run", "--to=stablehlo", "--out=~/encoder"], "/run holds no run"),
        (["convert", "--to=flax", "~/x.pth", "~/out"], "/x.pth: there is no such file"),
    ],
)
def test_home_is_expanded_in_every_path(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert f"{tmp_path}{said}" in capsys.readouterr().err
    assert not os.path.exists("~")


class Unreachable:
    """A path of a store that does not answer."""

    def __init__(self, path):
        self.path = path

    def exists(self):
        raise OSError("no route to host")


def test_a_platform_that_is_not_there_is_one_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "crate_jax", "pretrain", "--config=quickstart_digits", f"--workdir={tmp_path}/run"],
        env=os.environ | {"JAX_PLATFORMS": "rocm"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("crate-jax: JAX_PLATFORMS=rocm: Unable to initialize")


@pytest.mark.parametrize(
    ("number", "said", "code"),
    [
        (errno.EFBIG, "ulimit -f", 1),
        (errno.EROFS, "read and written", 1),
        (errno.EMFILE, "ulimit -n", 175),
        (errno.EIO, "see that the disk answers", 175),
        (errno.ENOSPC, "space", 1),
    ],
)
def test_what_a_machine_refuses_is_one_sentence(number, said, code, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(number, os.strerror(number), "out/probe.json")

    monkeypatch.setattr("crate_jax.cli.main.run", refuse)
    monkeypatch.setattr(sys, "stdout", None)  # as `>&-` leaves it
    assert main(["probe"]) == code
    told = capsys.readouterr().err
    assert "out/probe.json" in told and said in told and len(told.splitlines()) == 1


def test_a_current_folder_that_is_gone_is_one_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["knn", "--workdir=run"]) == 1
    assert "the current folder is not there any more" in capsys.readouterr().err


def test_an_address_of_another_program_is_refused_before_the_demo_compiles(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["demo", "--workdir=w", f"--port={port}"]) == 1
    assert f"--port={port} cannot be listened on" in capsys.readouterr().err
    for host in ("no.such.host.é", "a\0b", "\udce9"):
        assert main(["demo", "--workdir=w", f"--host={host}"]) == 1
    assert "cannot be listened on" in capsys.readouterr().err


def test_a_reader_that_left_is_no_error():
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m crate_jax --help | head -n 1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_a_locale_without_the_letters_changes_no_file_and_ends_no_command(tmp_path):
    code = f"""
import sys
from crate_jax.cli.main import main
import crate_jax.cli.main as cli
from crate_jax.storage import write_file
def run(*_):
    write_file({str(tmp_path / "comparison.md")!r}, {"± 猫"!a})
    print({"± 猫"!a})
cli.run = run
sys.exit(main(["compare"]))
"""
    env = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=120)
    assert done.stdout == b"\\xb1 \\u732b\n", done.stderr
    assert (tmp_path / "comparison.md").read_text(encoding="utf-8") == "± 猫"
