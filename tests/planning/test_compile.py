"""`crate-jax compile`, the command, for a TPU that is not there; needs libtpu (the extra tpu).

One process runs all commands, so that libtpu is loaded once; four chips and a network of two layers.
"""

import json
import subprocess
import sys

import pytest

from crate_jax import create_model
from crate_jax.models.flops import flops_per_image
from crate_jax.models.registry import num_parameters
from crate_jax.planning.ahead_of_time import missing_compiler

if problem := missing_compiler():
    pytest.skip(problem, allow_module_level=True)

NETWORK = {"image_size": 16, "patch_size": 8, "width": 128, "num_heads": 2, "depth": 1, "decoder_depth": 1}
VIT = NETWORK | {"name": "vit_mae_small", "decoder_width": 64, "decoder_num_heads": 1}
SETTINGS = {"model.name": "crate_mae_tiny", "model.dtype": "bfloat16", "data.name": "embedded_digits"}
SETTINGS |= {"data.train_split": "train", "total_steps": 1000, "batch_size": 64}
CONFIG = "from crate_jax.config import default_config\ndef get_config():\n    return default_config()\n"
COMMANDS = {  # name: (topology, network, further settings)
    "fsdp": ("v5e:2x2", NETWORK, {"mesh.fsdp": 2}),
    "drop": ("v5e:2x2", NETWORK | {"mask_mode": "drop"}, {}),
    "vit": ("v5e:2x2", VIT, {}),
    "unfit": ("v5e:2x2", NETWORK, {"batch_size": 2**20}),
    "no such slice": ("v5e:3x3", NETWORK, {}),
    "no such mesh": ("v5e:2x2", NETWORK, {"mesh.fsdp": 5}),
}
CHILD = """
import contextlib, io, json, sys
from crate_jax.cli.main import main

class Refused:
    def lower(self, *arguments):
        return self
    def compile(self):
        raise RuntimeError("RESOURCE_EXHAUSTED: ... Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.")

told, errors = {}, io.StringIO()
sys.stderr = errors  # where logging writes from the first command on
for name, words in json.loads(sys.stdin.read()).items():
    errors.seek(0), errors.truncate()
    if name == "unfit":
        from crate_jax.training import program
        whole, program.jit_train_step = program.jit_train_step, lambda *_: Refused()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(words)
    if name == "unfit":
        program.jit_train_step = whole
    told[name] = {"code": code, "out": out.getvalue(), "errors": errors.getvalue()}

from crate_jax.config import default_config, override
from crate_jax.distributed.mesh import make_mesh
from crate_jax.planning.ahead_of_time import topology_devices
from crate_jax.planning.chips import find_topology

config = override(default_config(), [("mesh.fsdp", 8)])
told["torus"] = dict(make_mesh(config.mesh, topology_devices(find_topology("v5p:4x4x4"))).shape)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each command did: exit code, what it printed, what it wrote on stderr."""
    file = tmp_path_factory.mktemp("compile") / "config.py"
    file.write_text(CONFIG)
    words = {}
    for name, (topology, network, more) in COMMANDS.items():
        settings = SETTINGS | {f"model.{key}": value for key, value in network.items()} | more
        words[name] = ["compile", f"--config={file}", f"--topology={topology}", "--json"]
        words[name] += [f"--config.{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(command, input=json.dumps(words), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_step_compiles_for_four_chips(told):
    assert told["fsdp"]["code"] == 0, told["fsdp"]["errors"]
    plan = json.loads(told["fsdp"]["out"])
    model = create_model("crate_mae_tiny", **NETWORK)
    assert (plan["fits"], plan["chips"], plan["mesh"]) == (True, 4, {"data": 2, "fsdp": 2, "tensor": 1})
    again = 2 * 4 * 5**2 * 128  # two layers; the scores once more, and one product more for their gradient
    assert plan["flops_per_step"] == 16 * (flops_per_image(model) + again)
    state = 3 * 4 * num_parameters(model)  # parameters and two moments; matrices are split two ways
    assert state / 2 < plan["bytes_per_chip"]["arguments"] < state / 2 * 1.5
    assert plan["bytes_per_chip"]["capacity"] == 15.75 * 2**30 > plan["bytes_per_chip"]["peak"] > 0
    temporaries = plan["bytes_per_chip"]["temporaries"]  # in HBM: more than the peak were said, for VMEM was counted
    assert 0 < temporaries <= plan["bytes_per_chip"]["peak"] - plan["bytes_per_chip"]["arguments"]
    # every split matrix is gathered, and its gradient summed over the batch's split
    matrices = 2 * 3 * 128**2 + 2 * 192 * 128
    gathered = plan["collectives"].pop("all-gather")["bytes"]
    assert gathered >= 2 * matrices  # in bfloat16, once at least
    assert sum(found["bytes"] for found in plan["collectives"].values()) >= 4 * matrices / 2
    seconds = plan["seconds_per_step"]
    assert seconds["compute"] == pytest.approx(plan["flops_per_step"] / 197e12)
    assert seconds["memory"] == pytest.approx(plan["hbm_crossing_bytes_per_step"] / 819e9)
    least = 2 * plan["bytes_per_chip"]["temporaries"] + plan["bytes_per_chip"]["arguments"]
    assert least < plan["hbm_crossing_bytes_per_step"] < plan["hbm_bytes_per_step"]
    assert seconds[seconds["bound"]] == max(seconds[name] for name in ("compute", "memory", "interconnect"))
    assert "encoder_norm/scale" in plan["unsplit_parameters"]
    assert not [name for name in plan["unsplit_parameters"] if "dictionary" in name or "subspaces" in name]


@pytest.mark.parametrize("name", ["drop", "vit"])
def test_gradients_of_a_bfloat16_step_are_added_up_in_float32(told, name):
    """Four chips, each a part of the batch: four bytes a parameter cross the links, and two scalars."""
    assert told[name]["code"] == 0, told[name]["errors"]
    options = dict(COMMANDS[name][1])
    size = 4 * num_parameters(create_model(options.pop("name", "crate_mae_tiny"), **options))
    (kind,) = json.loads(told[name]["out"])["collectives"].items()
    assert kind[0] == "all-reduce" and size <= kind[1]["bytes"] <= size + 64


def test_an_axis_may_take_a_part_of_a_torus(told):
    """Eight ways on 4 x 4 x 4 chips: no physical axis, nor several, has that length."""
    assert told["torus"] == {"data": 8, "fsdp": 8, "tensor": 1}


def test_what_does_not_fit_is_one_sentence(told):
    """Refused in libtpu's words, which are given here: it takes minutes to find them for a real step."""
    assert told["unfit"]["code"] == 1
    plan = json.loads(told["unfit"]["out"])
    assert plan["fits"] is False
    assert plan["bytes_per_chip"]["peak"] > plan["bytes_per_chip"]["capacity"] > 15 * 2**30
    sentence = told["unfit"]["errors"].strip().splitlines()[-1]
    assert sentence.startswith(
        "crate-jax: crate_mae_tiny with batch_size=1048576 does not fit on v5e:2x2: a chip would"
    )
    assert "--config.model.remat=names" in sentence


@pytest.mark.parametrize(
    ("name", "says"), [("no such slice", "libtpu refuses it"), ("no such mesh", "do not multiply to the 4 devices")]
)
def test_mistakes_are_told_in_a_sentence(told, name, says):
    assert told[name]["code"] == 1
    assert says in told[name]["errors"].strip().splitlines()[-1]
    assert "Traceback" not in told[name]["errors"]
