"""The exported encoder runs in a process that has no crate_jax, at any batch size, on pixels."""

import importlib.util
import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

import crate_jax
import crate_jax.evaluation.export
from crate_jax.cli.main import main

SERVE = """
import sys
import numpy as np
from jax import export
program = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
images = np.load(sys.argv[2])
np.save(sys.argv[3], np.concatenate([program.call(images[:1]), program.call(images[1:])]))
assert "crate_jax" not in sys.modules and "flax" not in sys.modules
"""


def test_features_are_served_without_this_library(workdir, tmp_path):
    file = tmp_path / "encoder.stablehlo"
    line = ["export", f"--workdir={workdir}", "--to=stablehlo", f"--out={file}"]
    assert main([*line, "--features=cells@encoder_00"]) == 0
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    paths = [str(file), str(tmp_path / "images.npy"), str(tmp_path / "features.npy")]
    subprocess.run([sys.executable, "-c", SERVE, *paths], check=True)
    net = crate_jax.from_pretrained(str(workdir))
    expected = np.asarray(net.features(net.preprocess(images), "cells@encoder_00"))
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), expected, atol=1e-4)
    described = json.loads((tmp_path / "encoder.stablehlo.json").read_text())
    assert described["input"]["shape"] == ["batch", 28, 28, 1] and described["output"]["shape"][1] == expected.shape[1]
    assert described["source"]["parameters"] == net.subject.identity
    assert main([*line, "--features=mean@2"]) == 1


def test_a_tensorflow_that_is_too_old_for_jax_is_named(workdir, tmp_path, monkeypatch, capsys):
    """TensorFlow 2.21 does not know operations that jax 0.12 writes; that was told as a failure of an object store."""
    tensorflow = pytest.importorskip("tensorflow")

    def served(images):
        raise tensorflow.errors.InvalidArgumentError(None, None, "Graph execution error:\n\nunregistered operation")

    module = types.SimpleNamespace(signatures={"serving_default": served})
    monkeypatch.setattr(tensorflow.saved_model, "load", lambda path: module)
    assert main(["export", f"--workdir={workdir}", "--to=savedmodel", f"--out={tmp_path / 'encoder'}"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"TensorFlow {tensorflow.__version__} does not run what jax {jax.__version__} writes" in said


def test_tensorflow_serves_the_same(workdir, tmp_path, monkeypatch):
    tensorflow = pytest.importorskip("tensorflow")
    if jax.__version_info__ >= (0, 12) and tensorflow.__version__.startswith("2.21."):
        pytest.skip("TensorFlow 2.21 does not know operations that jax 0.12 writes")
    line = ["export", f"--workdir={workdir}", "--to=savedmodel", f"--out={tmp_path / 'encoder'}"]
    assert main([*line, "--features=mean@last"]) == 0
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1)).astype(np.uint8)
    served = tensorflow.saved_model.load(str(tmp_path / "encoder")).signatures["serving_default"]
    net = crate_jax.from_pretrained(str(workdir))
    expected = np.asarray(net.features(net.preprocess(images), "mean@last"))
    for part in (slice(0, 1), slice(0, 3)):
        found = served(images=tensorflow.constant(images[part]))["features"]
        np.testing.assert_allclose(found, expected[part], atol=1e-4)
    assert json.loads((tmp_path / "encoder.json").read_text())["form"] == "savedmodel"
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert main(line) == 1


def not_known(serve, shape):
    """In the place of `export._converted`, in its process."""
    return None, "NotImplementedError: cholesky"


def test_onnxruntime_serves_the_same(workdir, tmp_path, monkeypatch, capsys):
    """Of a network that is scanned, recomputes and computes in bfloat16, none of which jax2onnx knows."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if importlib.util.find_spec("jax2onnx") is None:
        pytest.skip("no jax2onnx")
    file = tmp_path / "encoder.onnx"
    line = ["export", f"--workdir={workdir}", "--to=onnx", f"--out={file}", "--features=cells@encoder_00"]
    line += [f"--config.model.{name}" for name in ("dtype=bfloat16", "scan_layers=True", "remat=full")]
    assert main(line) == 0
    assert "jax2onnx" not in sys.modules, "imported in the process that converts, only"
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1)).astype(np.uint8)
    net, session = crate_jax.from_pretrained(str(workdir)), onnxruntime.InferenceSession(file.read_bytes())
    expected = np.asarray(net.features(net.preprocess(images), "cells@encoder_00"))
    for part in (slice(0, 1), slice(0, 3)):
        (found,) = session.run(["features"], {"images": images[part]})
        np.testing.assert_allclose(found, expected[part], atol=1e-4)

    assert jax.jit(lambda x: jax.numpy.cumsum(x, 0))(np.ones(2))[1] == 2  # jax2onnx replaces it and leaves it so
    monkeypatch.setattr(crate_jax.evaluation.export, "_converted", not_known)
    assert main(line) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "does not convert this network (NotImplementedError: cholesky); take --to=stablehlo" in said
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    assert main(line) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "pip install 'crate-jax[onnx]' and pip install --no-deps jax2onnx" in said
