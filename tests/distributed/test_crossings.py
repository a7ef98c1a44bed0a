"""Settings that must not change the result do not, crossed pairwise: family, mask, dtype, kernels, mesh, optimizer."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("allpairspy")

from tests.distributed.crossings import FACTORS, rows


@pytest.fixture(scope="module")
def found():
    """Every row with CRATE_JAX_SLOW_TESTS=1; else five, which hold every other family, dtype, optimizer and mesh.

    Row 0 has the first value of each factor, and so is its own plain variant.
    """
    numbers = [] if "CRATE_JAX_SLOW_TESTS" in os.environ else [str(number) for number in range(1, 6)]
    words = [sys.executable, "-m", "tests.distributed.crossings", *numbers]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_pair_of_values_is_crossed():
    pairs = {(a, row[a], b, row[b]) for row in rows() for a in FACTORS for b in FACTORS}
    assert ("family", "cbsa", "model.remat", "names") in pairs
    assert ("model.dtype", "bfloat16", "mesh", "tensor 2") in pairs
    assert ("optimizer.accumulate", 2, "mesh", "data 2 fsdp 2") in pairs


def test_no_crossing_changes_the_result(found):
    wrong = []
    for one in found:
        low = one["row"]["model.dtype"] == "bfloat16"
        signs = one["row"]["optimizer.name"] == "lion"  # rounding flips the sign of an entry that is nearly zero
        losses, norms = one["plain"]
        loss_error = np.max(np.abs(np.divide(one["losses"], losses) - 1))
        norm_error = np.max(np.abs(np.divide(one["norms"], norms) - 1))
        allowed = 1e-2 if low else 2e-4 if signs else 2e-5
        if loss_error > allowed or norm_error > (0.1 if low else 20 * allowed):
            wrong.append((one["row"], float(loss_error), float(norm_error)))
    assert not wrong, "\n".join(map(str, wrong))
    assert len({tuple(one["losses"]) for one in found}) > len(found) / 4
