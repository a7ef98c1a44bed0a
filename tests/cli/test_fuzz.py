"""Every leaf and every numeric flag with anything: a value within its range, or one sentence. The long run, with two
steps of training per case, is `benchmarks/fuzz_settings.py`."""

import argparse
import importlib
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import fuzz_settings
from crate_jax.cli.main import COMMANDS
from crate_jax.config import check_leaf, default_config, from_json, override, to_json
from crate_jax.config_schema import LEAVES
from crate_jax.errors import UserError

NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, 2**31, 2**32, 2**63, 10**400])
ANYTHING = (
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.lists(NUMBERS | st.text(max_size=3), max_size=4)
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(LEAVES)), ANYTHING)
def test_a_leaf_takes_what_is_in_its_range_and_nothing_else(name, value):
    leaf = LEAVES[name]
    try:
        found = check_leaf(name, value)
    except UserError as error:
        assert str(error).startswith(name) and "\n" not in str(error)
        return
    if found is None:
        assert value is None and leaf.default is None
        return
    pair = leaf.pair and isinstance(found, tuple)
    assert isinstance(found, tuple if pair else leaf.type) and check_leaf(name, found) == found
    for number in found if leaf.items is float or pair else (found,) if leaf.type in (int, float) else ():
        assert (leaf.low is None or number >= leaf.low) and (leaf.high is None or number <= leaf.high)
        assert (leaf.above is None or number > leaf.above) and (leaf.below is None or number < leaf.below)
    if leaf.choices:
        assert set(found if isinstance(found, tuple) else [found]) <= set(leaf.choices)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(sorted(LEAVES)), st.text(max_size=12) | NUMBERS.map(str), max_size=3))
def test_a_command_line_is_a_config_that_reads_back_or_a_sentence(overrides):
    try:
        config = override(default_config(), overrides.items())
    except UserError:
        return
    assert override(from_json(json.dumps(json.loads(to_json(config))))) == config


def numeric_flags():
    for command in COMMANDS:
        parser = argparse.ArgumentParser(prog=command, exit_on_error=False)
        importlib.import_module(f"crate_jax.cli.{command}").add_arguments(parser)
        yield from ((command, action) for action in parser._actions if action.type is not None)


@pytest.mark.parametrize(("command", "action"), list(numeric_flags()), ids=lambda one: getattr(one, "dest", one))
def test_a_numeric_flag_takes_finite_numbers_of_its_range(command, action):
    assert action.type not in (int, float)
    for text in ("nan", "inf", "-inf", "1e999", "-1", "", "é", "x", "9" * 5000, "-1e-9"):
        with pytest.raises(argparse.ArgumentTypeError) as refusal:
            action.type(text)
        assert len(str(refusal.value)) < 120
    assert action.default is None or action.type(str(action.default)) == action.default


@pytest.mark.parametrize("first", [0, 15])
def test_settings_are_refused_before_anything_is_compiled(first):
    for number in range(first, first + 15):
        case = fuzz_settings.make_case(random.Random(f"0-{number}"))
        kind, said = fuzz_settings.outcome_of(case, check_only=True)
        assert kind in ("passed", "refused"), (case, said)
