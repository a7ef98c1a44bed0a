"""Settings: every leaf has a type, a range and a sentence; what is given is remembered; nonsense is refused."""

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from crate_jax.config import check_leaf, default_config, flatten, from_json, given, load_config, override, to_json
from crate_jax.config_files import installed_configs
from crate_jax.config_schema import LEAVES
from crate_jax.errors import UserError, nearest


def test_every_leaf_says_what_it_is_and_where_it_ends():
    for name, leaf in LEAVES.items():
        assert leaf.doc and leaf.doc == leaf.doc.strip() and not leaf.doc.endswith("."), name
        if leaf.type in (int, float) and not leaf.choices:
            assert leaf.range and "None" not in leaf.range, name
        assert leaf.default is None or check_leaf(name, leaf.default) == leaf.default
    docs = [leaf.doc for leaf in LEAVES.values()]
    assert len(set(docs)) == len(docs)


WRONG = [
    ("batch_size", "1e999"),
    ("total_steps", "inf"),
    ("total_steps", float("inf")),
    ("total_epochs", "nan"),
    ("seed", 2**32),
    ("seed", 2**63),
    ("seed", "9" * 5000),
    ("optimizer.b1", 1),
    ("optimizer.b2", 1.0),
    ("optimizer.clip_norm", 0),
    ("optimizer.learning_rate", 10**400),
    ("optimizer.learning_rate", True),
    ("model.epsilon", 0),
    ("data.mean", "()"),
    ("data.mean", "['a']"),
    ("data.std", "[]"),
    ("data.std", "0,0,0"),
    ("data.std", "nan,1,1"),
    ("data.crop_scale", "2,5"),
    ("data.crop_scale", "1.0,0.2"),
    ("data.crop_scale", "[0.2]"),
    ("data.crop_ratio", "0,1"),
    ("data.show_classes", "(1,)"),
    ("data.name", " "),
    ("data.data_dir", "x" * 5000),
    ("mesh.rules", "(" * 5000),
    ("model.image_size", "224x"),
    ("model.image_size", "1x2x3"),
    ("model.image_size", "0x224"),
    ("model.image_size", (16,)),
    ("model.patch_size", "4x4"),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: str(value)[:20])
def test_what_makes_no_sense_is_one_short_sentence(name, value):
    with pytest.raises(UserError) as refusal:
        override(default_config(), [(name, value)])
    said = str(refusal.value)
    assert said.startswith(name) and "\n" not in said and len(said) < 300


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("model.image_size", "224x160", (224, 160)),
        ("model.image_size", "32x32", 32),
        ("model.image_size", [16, 24], (16, 24)),
        ("model.table_image_size", "(14, 28)", (14, 28)),
        ("batch_size", "1e3", 1000),
        ("batch_size", np.int64(7), 7),
        ("optimizer.b1", 0, 0.0),
        ("data.mean", "0.5", (0.5,)),
        ("data.mean", "0.1,0.2,0.3", (0.1, 0.2, 0.3)),
        ("data.show_classes", "cat, dog", ("cat", "dog")),
        ("data.show_classes", "0,1", ("0", "1")),
        ("data.show_classes", "('a, b', )", ("a, b",)),
        ("total_steps", "none", None),
        ("model.sparsification", "None", None),
        *[(name, one, one) for name, leaf in LEAVES.items() if leaf.type is str for one in leaf.choices or ()],
        ("seed", 2**32 - 1, 2**32 - 1),
    ],
)
def test_what_a_value_becomes(name, text, value):
    found = flatten(override(default_config(), [(name, text)]))[name]
    assert found == value and type(found) is type(value)


def test_a_leaf_set_to_its_default_counts_as_given():
    config = default_config()
    assert given(config) == set()
    config.data.flip, config.seed = LEAVES["data.flip"].default, 0
    assert given(config) == {"data.flip", "seed"}
    for other in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), override(config)):
        assert given(other) == {"data.flip", "seed"}
    assert given(override(config, [("data.erasing", "0.0")])) == {"data.flip", "seed", "data.erasing"}
    assert given(from_json(to_json(config))) == set(LEAVES)
    wide = override(config, [("model.image_size", "224x160")])
    assert from_json(to_json(wide)) == wide
    digits = load_config("quickstart_digits", [("optimizer.name", "adamw")])
    assert {"data.flip", "optimizer.name"} <= given(digits) and "data.erasing" not in given(digits)


def test_epochs_on_the_command_line_replace_the_configs_steps():
    """They had no effect: a sweep over total_epochs on a config with total_steps trained the same length each time."""
    found = load_config("quickstart", {"total_epochs": "2", "optimizer.warmup_epochs": "0.5"})
    assert (found.total_steps, found.total_epochs) == (None, 2) and found.optimizer.warmup_steps is None
    both = load_config("quickstart", {"total_epochs": 2, "total_steps": 9})
    assert (both.total_steps, both.optimizer.warmup_steps) == (9, 150)
    assert load_config("quickstart", {"total_epochs": "None"}).total_steps == 1500


def test_configs_by_name_by_argument_and_by_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text(
        'from crate_jax.config import load_config\nARGUMENTS = ("few", "many")\n'
        'def get_config(argument="few"):\n    config = load_config("quickstart")\n'
        '    config.total_steps = 9 if argument == "many" else 3\n    return config\n'
    )
    assert load_config("mine.py").total_steps == load_config("mine.py:few").total_steps == 3
    assert load_config(f"{file}:many").total_steps == 9
    (tmp_path / "made.py").write_text(f"{file.read_text()}ARGUMENTS = tuple(sorted(ARGUMENTS))\n")
    (tmp_path / "other.py").write_text(file.read_text().replace('("few", "many")', "tuple({'few'})"))
    assert load_config("made.py:many").total_steps == 9 and load_config("other.py").total_steps == 3
    (tmp_path / "config.json").write_text(to_json(load_config("mine.py:many")))
    assert load_config("config.json").total_steps == 9
    for name, said in [
        ("mine", "there is a file mine.py: write --config=mine.py"),
        ("mine.py:lots", "mine.py takes few, many"),
        ("quickstart:x", "takes no argument"),
        ("quikstart", "did you mean quickstart"),
        ("x" * 5000, "no such file"),
    ]:
        with pytest.raises(UserError, match=said):
            load_config(name)


NAMES = """finetune finetune_cifar10 finetune_cifar100 finetune_flowers finetune_imagenet finetune_pets imagenet_1b
imagenet_base imagenet_large imagenet_small imagenet_tiny probe_cifar10 probe_cifar100 probe_flowers probe_mae
probe_pets quickstart quickstart_digits vit_mae_base vit_mae_large"""


def test_a_list_of_known_names_stays_a_sentence():
    assert nearest("zzz", ["ab", "cd"]) == "; known: ab, cd"
    assert nearest("seedd", LEAVES) == "; did you mean seed?"
    assert len(nearest("zzz", [f"network_{number}" for number in range(90)])) < 60


def test_every_installed_config_is_a_config():
    installed = installed_configs()
    assert set(NAMES.split()) <= set(installed)
    for name in installed:
        assert set(flatten(load_config(name))) == set(LEAVES)
    assert load_config("configs/imagenet_large.py") == load_config("imagenet:large") == load_config("imagenet_large")
    assert load_config("imagenet_large").model.name == "crate_mae_large"
    assert load_config("finetune_pets").data.name == "oxford_iiit_pet"
    with pytest.raises(UserError, match=r"imagenet\.py takes tiny, .*did you mean large"):
        load_config("imagenet:larg")


JAX_SETTINGS = """
import jax
from crate_jax.distributed.jax_settings import check_jax_settings
from crate_jax.errors import UserError
for name, wrong in (
    ("jax_transfer_guard", "disallow"), ("jax_disable_jit", True), ("jax_enable_x64", True),
    ("jax_default_prng_impl", "unsafe_rbg"), ("jax_threefry_partitionable", False),
    ("jax_random_seed_offset", 5), ("jax_no_execution", True),
    ("jax_numpy_rank_promotion", "raise"), ("jax_numpy_dtype_promotion", "strict"), (None, None),
):
    try:
        check_jax_settings()
        print("not refused", name)
    except UserError as error:
        print(error)
        before, _, first = str(error).partition("jax.config.update(")
        eval("jax.config.update(" + first.removesuffix(" first."))
    check_jax_settings()
    if name:
        jax.config.update(name, wrong)
"""


def test_jax_settings_that_change_or_break_a_run_are_refused():
    """However they were set; the sentence says what to call."""
    env = os.environ | {"JAX_DEFAULT_PRNG_IMPL": "rbg"}
    done = subprocess.run([sys.executable, "-c", JAX_SETTINGS], env=env, capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert done.returncode == 0 and len(said) == 10 and "not refused" not in done.stdout, done.stdout + done.stderr
    assert said[0].startswith("JAX_DEFAULT_PRNG_IMPL=rbg is set, and initial values") and "unset" in said[0]


def test_python_takes_a_config_or_its_path(tmp_path):
    import crate_jax

    with pytest.raises(UserError, match=r"nope\.py: no such file"):
        crate_jax.pretrain(tmp_path / "nope.py", tmp_path)
    with pytest.raises(UserError, match=r"^config=None: give a config, or the name or file of one"):
        crate_jax.pretrain(None, tmp_path)
