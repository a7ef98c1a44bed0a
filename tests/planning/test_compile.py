"""`crate-jax compile`, the command, for a TPU that is not there; needs libtpu (the extra tpu)."""

import json
import subprocess
import sys

import pytest

from crate_jax import create_model
from crate_jax.models.flops import flops_per_image
from crate_jax.models.registry import num_parameters

pytest.importorskip("libtpu")

NETWORK = {"image_size": 32, "patch_size": 8, "width": 128, "num_heads": 2, "depth": 1, "decoder_depth": 1}
SETTINGS = {f"model.{name}": value for name, value in NETWORK.items()}
SETTINGS |= {"model.name": "crate_mae_tiny", "model.dtype": "bfloat16", "data.name": "embedded_digits"}
SETTINGS |= {"data.train_split": "train", "total_steps": 1000, "batch_size": 64}
CONFIG = "from crate_jax.config import default_config\ndef get_config():\n    return default_config()\n"


def compile_(folder, *words, **more):
    (folder / "config.py").write_text(CONFIG)
    settings = [f"--config.{name}={value}" for name, value in (SETTINGS | more).items()]
    command = [sys.executable, "-m", "crate_jax", "compile", f"--config={folder / 'config.py'}", *words, *settings]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_a_step_compiles_for_sixteen_chips(tmp_path):
    done = compile_(tmp_path, "--topology=v5e:4x4", "--json", **{"mesh.fsdp": 4})
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    model = create_model("crate_mae_tiny", **NETWORK)
    assert (plan["fits"], plan["chips"], plan["mesh"]) == (True, 16, {"data": 4, "fsdp": 4, "tensor": 1})
    again = 2 * 4 * 17**2 * 128  # two layers; the scores once more, and one product more for their gradient
    assert plan["flops_per_step"] == 4 * (flops_per_image(model) + again)
    state = 3 * 4 * num_parameters(model)  # parameters and two moments; matrices are split four ways
    assert state / 4 < plan["bytes_per_chip"]["arguments"] < state / 4 * 1.5
    assert plan["bytes_per_chip"]["capacity"] == 15.75 * 2**30 > plan["bytes_per_chip"]["peak"] > 0
    assert plan["bytes_per_chip"]["temporaries"] > 0
    # every split matrix is gathered, and its gradient summed over the batch's split
    matrices = 2 * 3 * 128**2 + 2 * 192 * 128
    assert plan["collectives"]["all-gather"]["bytes"] >= 2 * matrices  # in bfloat16, once at least
    assert sum(found["bytes"] for found in plan["collectives"].values()) > 4 * matrices / 4
    seconds = plan["seconds_per_step"]
    assert seconds["compute"] == pytest.approx(plan["flops_per_step"] / 197e12)
    assert seconds["memory"] == pytest.approx(plan["hbm_crossing_bytes_per_step"] / 819e9)
    assert plan["bytes_per_chip"]["arguments"] < plan["hbm_crossing_bytes_per_step"] < plan["hbm_bytes_per_step"]
    assert seconds[seconds["bound"]] == max(seconds[name] for name in ("compute", "memory", "interconnect"))
    assert "encoder_norm/scale" in plan["unsplit_parameters"]
    assert not [name for name in plan["unsplit_parameters"] if "dictionary" in name or "subspaces" in name]


@pytest.mark.parametrize(
    "network",
    [NETWORK | {"mask_mode": "drop"}, NETWORK | {"name": "vit_mae_small", "decoder_width": 64, "decoder_num_heads": 1}],
    ids=["crate", "vit"],
)
def test_gradients_of_a_bfloat16_step_are_added_up_in_float32(tmp_path, network):
    """Sixteen chips, each a part of the batch: four bytes a parameter cross the links, and two scalars."""
    settings = {f"model.{name}": value for name, value in network.items()}
    done = compile_(tmp_path, "--topology=v5e:4x4", "--json", **settings)
    assert done.returncode == 0, done.stderr
    options = {name: value for name, value in network.items() if name != "name"}
    size = 4 * num_parameters(create_model(network.get("name", "crate_mae_tiny"), **options))
    (kind,) = json.loads(done.stdout)["collectives"].items()
    assert kind[0] == "all-reduce" and size <= kind[1]["bytes"] <= size + 64


def test_an_axis_may_take_a_part_of_a_torus(tmp_path):
    """Eight ways on 4 x 4 x 4 chips: no physical axis, nor several, has that length."""
    done = compile_(tmp_path, "--topology=v5p:4x4x4", "--json", **{"mesh.fsdp": 8})
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["fits"], plan["mesh"]) == (True, {"data": 8, "fsdp": 8, "tensor": 1})


def test_what_does_not_fit_is_one_sentence(tmp_path):
    """So many images that the compiler refuses at once."""
    done = compile_(tmp_path, "--topology=v5e-1", "--json", **{"batch_size": 2**20, "model.dtype": "float32"})
    assert done.returncode == 1
    plan = json.loads(done.stdout)
    assert plan["fits"] is False
    assert plan["bytes_per_chip"]["peak"] > plan["bytes_per_chip"]["capacity"] > 15 * 2**30
    (sentence,) = done.stderr.strip().splitlines()[-1:]
    assert sentence.startswith(
        "crate-jax: crate_mae_tiny with batch_size=1048576 does not fit on v5e:1x1: a chip would"
    )
    assert "--config.model.remat=names" in sentence
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--topology=v5e:3x3"], "libtpu refuses it"),
        (["--topology=v7:2x2"], "there is no chip v7"),
        (["--topology=v5e:4x4", "--config.mesh.fsdp=5"], "do not multiply to the 16 devices"),
    ],
)
def test_mistakes_are_told_in_a_sentence(tmp_path, words, says):
    done = compile_(tmp_path, *words)
    assert done.returncode == 1
    assert says in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
