"""A point is finished with a config, not with overrides: editing `get_config()` makes it unfinished."""

import json

from crate_jax.sweeps.points import load_sweep
from crate_jax.sweeps.run import DONE, finished

FILE = """
from crate_jax.config import load_config
def get_config():
    return load_config("quickstart", [("model.width", {width}), ("data.prefetch", {prefetch})])
def get_hyper():
    return [{{"seed": 0}}]
"""


def test_an_edited_get_config_is_not_done(tmp_path):
    def point(width, prefetch=2):
        (tmp_path / "sweep.py").write_text(FILE.format(width=width, prefetch=prefetch))
        return load_sweep(str(tmp_path / "sweep.py")).points[0]

    first = point(128)
    (tmp_path / first.name).mkdir()
    done = {"commands": ["pretrain"], "overrides": {"seed": 0}, "config": first.fingerprint}
    (tmp_path / first.name / DONE).write_text(json.dumps(done))
    assert finished(tmp_path, point(128)) == ["pretrain"]
    assert finished(tmp_path, point(128, prefetch=3)) == ["pretrain"]  # the result cannot change
    assert finished(tmp_path, point(64)) == []
