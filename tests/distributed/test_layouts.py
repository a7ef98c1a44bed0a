"""However a network is laid out over devices, it is the same network: steps end in the same numbers."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.distributed.layouts import LAYOUTS


@pytest.fixture(scope="module")
def told():
    words = [sys.executable, "-m", "tests.distributed.layouts"]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, timeout=600).stdout)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one"])
def test_layouts_agree(told, layout):
    one, other = told["one"], told[layout]
    assert one["losses"][0] != one["losses"][-1]
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-5)
    np.testing.assert_allclose(other["params"], one["params"], rtol=1e-5, atol=1e-5)


def test_the_program_holds_the_constraints(told):
    """Tokens are constrained to the batch's split, and codes to the heads', in every layer; nothing is dropped."""
    layers = 2
    assert told["data 2 fsdp 2 tensor 2"]["constraints"] >= 3 * layers
    assert told["data 2 fsdp 2 tensor 2"]["heads"] >= layers
    assert told["data 8"]["collectives"] > 0 == told["one"]["collectives"]


def test_what_a_device_can_do_alone_has_no_collectives(told):
    assert told["alone"] == {"slope": [], "parts": []}


def test_parameters_are_really_split(told):
    assert told["data 8"]["biggest_share"] == 1
    assert told["fsdp 4"]["biggest_share"] == 1 / 4
    assert told["other rules"]["biggest_share"] == 1, "embed is no longer split"
