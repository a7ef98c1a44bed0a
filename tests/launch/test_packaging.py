"""What setup.py asks for: Colab's versions are allowed as they are, and no base requirement brings TensorFlow."""

import importlib.metadata
import pathlib
import re
import runpy
import unittest.mock

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def asked():
    """The arguments of `setup()`."""
    with unittest.mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    return setup.call_args.kwargs


def pins(name):
    """Package to version of one of Colab's images."""
    lines = (ROOT / "launch" / "colab" / f"{name}.txt").read_text().splitlines()
    return dict(re.fullmatch(r"(\S+)==(\S+)", line).groups() for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("image", ["gpu", "tpu"])
def test_every_range_holds_the_version_of_colab(image, asked):
    installed = {canonicalize_name(name): version for name, version in pins(image).items()}
    for requirement in map(Requirement, asked["install_requires"]):
        version = installed.get(canonicalize_name(requirement.name))
        assert version is None or requirement.specifier.contains(version), f"{requirement} replaces {version}"
    assert len(installed) > 50 and "jax" in installed


@pytest.mark.parametrize("image", ["gpu", "tpu"])
def test_what_colab_lacks_fits_what_it_has(image, asked):
    """The packages that come with this one, as they are installed here; mlxtend 0.24 asked for a newer numpy."""
    installed = {canonicalize_name(name): version for name, version in pins(image).items()}
    names = {canonicalize_name(Requirement(one).name) for one in asked["install_requires"]} - installed.keys()
    assert names
    for name in names:
        for wanted in map(Requirement, importlib.metadata.requires(name) or []):
            version = installed.get(canonicalize_name(wanted.name))
            if version and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
                assert wanted.specifier.contains(version), f"{name} asks for {wanted}, {image} has {version}"


def test_tensorflow_is_an_extra_of_its_own(asked):
    extras = asked["extras_require"]
    with_it = {name for name, wanted in extras.items() if any("tensorflow-cpu" in one for one in wanted)}
    assert with_it == {"tensorflow"}
    assert not any(re.match(r"tensorflow(-cpu)?[<>=]", one) for one in asked["install_requires"])
    assert {"cpu", "tpu", "cuda", "cuda12", "cuda13", "torch", "notebook", "dev"} <= extras.keys()


def test_the_wheel_holds_the_shipped_network(asked, monkeypatch):
    monkeypatch.chdir(ROOT)
    build = setuptools.Distribution(asked).get_command_obj("build_py")
    build.ensure_finalized()
    held = {f"{package}/{name}" for package, _, _, names in build.data_files for name in names}
    network = "crate_jax/networks/photographs"
    for name in ("params.safetensors", "model.json", "config.json", "README.md"):
        assert f"{network}/{name}" in held and (ROOT / network / name).is_file()
    assert {"crate_jax/py.typed", "crate_jax.analysis/templates/words.toml"} <= held


def test_everything_that_is_required_is_constrained(asked):
    constrained = {
        canonicalize_name(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = asked["install_requires"] + [
        one for extra in ("dev", "notebook", "docs") for one in asked["extras_require"][extra]
    ]
    assert {canonicalize_name(Requirement(one).name) for one in wanted} <= constrained
