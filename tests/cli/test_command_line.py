"""The command line: quick to answer, and a user's mistake is one sentence and exit code 1."""

import subprocess
import sys

import pytest

from crate_jax.cli.main import COMMANDS, main, split_overrides


def test_help_names_every_command_and_imports_nothing_heavy():
    code = "import sys; from crate_jax.cli.main import main; main(['--help']); "
    code += "print('jax' in sys.modules, 'tensorflow' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"  {name} " in printed for name in COMMANDS)
    assert printed.endswith("False False\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert done.value.code == 0 and f"\n    crate-jax {command} " in shown
    assert shown.index(f"\n    crate-jax {command} ") < shown.index("\noptions:")


def test_overrides_are_taken_out_of_the_line():
    rest, overrides = split_overrides(["--workdir=w", "--config.a.b=1", "--config=f", "--config.c", "x=y"])
    assert rest == ["--workdir=w", "--config=f"] and overrides == [("a.b", "1"), ("c", "x=y")]


PRETRAIN = ["pretrain", "--config=quickstart", "--workdir=unused"]
ONE_PIXEL = ["--config.norm_pix_loss=True", "--config.model.patch_size=1", "--config.model.channels=1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrian"], "did you mean pretrain?"),
        (["pretrain", "--config=quickstart"], "--workdir"),
        (["pretrain", "--config=quikstart", "--workdir=unused"], "did you mean quickstart"),
        ([*PRETRAIN, "--confg.seed=1"], "--confg.seed=1"),
        ([*PRETRAIN, "--config.optimizer.learning_rat=1"], "did you mean optimizer.learning_rate"),
        ([*PRETRAIN, "--config.batch_size=many"], "batch_size='many' is not a whole number"),
        ([*PRETRAIN, "--config.data.flip=1"], "data.flip=1 is not True or False"),
        ([*PRETRAIN, "--config.model.mask_ratio=1.5"], "model.mask_ratio=1.5 is outside (0, 1)"),
        ([*PRETRAIN, "--config.model.patch_size=5"], "model.image_size=32 is not divisible by model.patch_size=5"),
        ([*PRETRAIN, "--config.model.num_heads=3"], "model.width=128 is not divisible by model.num_heads=3"),
        ([*PRETRAIN, "--config.optimizer.name=adm"], "optimizer.name='adm' is none of adamw"),
        ([*PRETRAIN, "--config.mesh.data=3"], "mesh.data=3"),
        ([*PRETRAIN, "--config.mesh.dcn_data=2"], "mesh.dcn_data=2: the devices"),
        ([*PRETRAIN, "--config.data.validation_split=nope"], "data.validation_split=nope"),
        ([*PRETRAIN, "--config.model.name=crate_classifier_base"], "pretrain trains masked autoencoders, such as"),
        ([*PRETRAIN, "--config.data.mixup=0.8"], "data.mixup=0.8 has no effect on pre-training"),
        (["pretrain", "--config=finetune", "--workdir=unused"], "model.pooling='mean' has no effect on pre-training"),
        ([*PRETRAIN, *ONE_PIXEL], "a patch of one pixel and one channel"),
        ([*PRETRAIN, "--config.optimizer.warmup_steps=9000"], "optimizer.warmup_steps=9000"),
        (["probe", "--workdir=there/is/none"], "holds no run"),
        (["probe", "--workdir=there/is/none", "--shots=²"], "give numbers separated"),
        (["probe", "--workdir=there/is/none", "--shots=" + "9" * 5000], "give numbers separated"),
        ([*PRETRAIN, f"--config.data.train_split=train[:{'9' * 5000}]"], "at most 4096 letters"),
        (["reconstruct", "--workdir=w", "--limit=-1"], "--limit: -1: give a whole number from 1 to"),
        (["analyze", "--workdir=w", "--limit=0"], "--limit: 0: give a whole number from 2 to"),
        (["knn", "--workdir=w", "--temperature=nan"], "--temperature: nan: give a number from 0.001 to"),
        (["knn", "--workdir=w", "--k=1e3"], "--k: 1e3: give a whole number from 1"),
        (["finetune", "--workdir=w", "--draws=0"], "--draws: 0: give a whole number from 1 to 1000"),
        (["finetune", "--workdir=w", "--labels_per_class=99999999999"], "give a whole number"),
        (["data", "--config=quickstart", "--seconds=inf"], "--seconds: inf: give a number from 0 to 3600"),
        (["compile", "--config=quickstart", "--topology=v5e:1x1", "--slices=0"], "give a whole number from 1"),
        (["convert", "--to=flax", "--lambda_=-1", "a", "b"], "--lambda_: -1.0: give a number from 0 to"),
        (["sweep", "--config=crate_vs_vit", "--workdir=w", "--parallel=0"], "give a whole number from 1"),
        (["knn", "--workdir=w", "--images="], "--images= is empty; give it a value, or leave it out."),
        (["probe", "--workdir=w", "--features= "], "--features= is empty"),
        (["convert", "--to=flax", "", "out"], "IN is empty; give it a value."),
        (["compare", "w", "", "--out=o"], "runs is empty"),
        (["pretrain", "--config=~nobody/x.py", "--workdir=w"], "--config=~nobody/x.py: no such file"),
        (["probe", "--checkpoint=~nobody/x.pth", "--config=probe_cifar10", "--out=o"], "there is no such file"),
        (["pretrain", "--config=quickstart", "--workdir=gs:/b/x"], "begins with gs://, with two slashes"),
        (["knn", "--workdir=http://x/y", "--out=o"], "no files are read or written at http://"),
        (["convert", "--to=flax", "http://x/y", "o"], "no files are read or written at http://"),
        (["sweep", "--config=crate_vs_vit", "--workdir=/dev/null"], "/dev/null is a file; name a folder"),
        (["pretrain", "--config=quickstart", "--workdir=r\udce9s"], "this name is no text in UTF-8"),
        (["features", "--workdir=w", "--split=test", "--out=r\udce9s.npz"], "this name is no text in UTF-8"),
        (["knn", "--workdir=w", "--out=a\0b"], "this name is no text in UTF-8"),
    ],
)
def test_mistakes_are_one_sentence(words, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("crate-jax: ") and said in told
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize(
    ("text", "argument", "said"),
    [
        ("def get_config():\n    return nothing\n", "", "NameError: name 'nothing' is not defined (line 2)"),
        ("import sys\nsys.exit(3)\n", "", "the file itself fails: SystemExit: 3 (line 2)"),
        ("import sys\ndef get_config():\n    sys.exit()\n", "", "get_config() fails: SystemExit"),
        ("get_config = 3\n", ":base", "get_config is int, not a function"),
    ],
)
def test_a_config_file_that_fails_is_told_with_its_line(text, argument, said, tmp_path, capsys):
    (tmp_path / "broken.py").write_text(text)
    assert main(["pretrain", f"--config={tmp_path / 'broken.py'}{argument}", f"--workdir={tmp_path}"]) == 1
    assert said in capsys.readouterr().err
