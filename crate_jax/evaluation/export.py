"""The encoder for serving: pixels in, features out, as a program that runs without crate_jax.

    stablehlo    jax.export.deserialize(bytearray(open(FILE, "rb").read())).call(images_BxHxWxC)
    savedmodel   tf.saved_model.load(FOLDER).signatures["serving_default"](images=images_BxHxWxC)["features"]
    onnx         onnxruntime.InferenceSession(FILE).run(["features"], {"images": images_BxHxWxC})[0]

Images are uint8 in batches of any size. Normalisation is part of the program, and the parameters are constants of it.
"""

import functools
import logging
import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import export

from crate_jax.errors import UserError
from crate_jax.evaluation.features import parse_features, several_features
from crate_jax.extras import check_library, library
from crate_jax.operators.patches import image_shape
from crate_jax.storage import write_file, write_json
from crate_jax.storage_errors import user_errors

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-4  # of the largest feature, between the exported program and the network


def export_encoder(subject, features, path, form="stablehlo", *, features_from="given"):
    """Writes the program and `path`.json, which says what goes in, what comes out and of which network it is.

    Args:
        features: POOLING@LAYER.
        path: a file (stablehlo, onnx) or a folder (savedmodel) to write.
        form: one of `FORMS`.
        features_from: who chose them, of `Subject.features_or`.

    Returns:
        The length of a feature vector.

    Raises:
        UserError: no such feature, no TensorFlow or one that is too old for this jax, no jax2onnx or an operation that
            it does not know, or a program that does not compute what the network does.
    """
    model, params, statistics = subject.model, jax.device_get(subject.params), subject.statistics
    parse_features(features, model.depth)
    settings = {name: "xla" for name in ("attention_kernel", "product_kernel") if hasattr(model, name)}
    if form == "onnx":
        settings |= {"dtype": "float32", "scan_layers": False, "remat": "none"}  # what jax2onnx knows
    model = model.clone(**settings)  # what every platform runs

    serve = functools.partial(_serve, model, params, features, statistics)
    shape, path = (*image_shape(model.image_size), model.channels), epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with user_errors(f"{path} cannot be written"):
        served = FORMS[form](serve, shape, path)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(np.uint8)
    expected = np.asarray(jax.jit(serve)(images))
    difference = np.abs(np.asarray(served(images)) - expected).max()
    if not difference <= TOLERANCE * np.abs(expected).max():
        raise UserError(f"--features={features}: the exported program is {difference:.2g} off; report this network.")
    described = {
        "features": features,
        "features_from": features_from,
        "form": form,
        "input": {"dtype": "uint8", "shape": ["batch", *shape], "values": "pixels, 0 to 255"},
        "output": {"dtype": "float32", "shape": ["batch", expected.shape[1]]},
        "platforms": ("any",) if form == "onnx" else PLATFORMS,
        "jax": jax.__version__,
    }
    stamp = subject.stamp(data={"name": subject.config.data.name, "split": None, "fingerprint": None, "examples": 0})
    write_json(f"{path}.json", described | stamp)
    return expected.shape[1]


def _serve(model, params, features, statistics, images_BxHxWxC):
    return several_features(model, params, images_BxHxWxC, (features,), statistics)[features]


def _stablehlo(serve, shape, path):
    """Writes a file of `jax.export`; returns what the file computes."""
    (batch,) = export.symbolic_shape("batch")
    program = export.export(jax.jit(serve), platforms=PLATFORMS)(jax.ShapeDtypeStruct((batch, *shape), jnp.uint8))
    write_file(path, bytes(program.serialize()))
    return export.deserialize(bytearray(path.read_bytes())).call


def _savedmodel(serve, shape, path):
    """Writes a folder of TensorFlow's; returns what the folder computes."""
    tensorflow = library("tensorflow", "tensorflow", "--to=savedmodel")
    from jax.experimental import jax2tf

    sizes = ", ".join(map(str, shape))
    converted = jax2tf.convert(
        serve, polymorphic_shapes=[f"(batch, {sizes})"], native_serialization_platforms=PLATFORMS, with_gradient=False
    )

    @tensorflow.function(autograph=False, input_signature=[tensorflow.TensorSpec((None, *shape), "uint8", "images")])
    def features(images):
        return {"features": converted(images)}

    module = tensorflow.Module()
    tensorflow.saved_model.save(module, str(path), signatures={"serving_default": features})
    served = tensorflow.saved_model.load(str(path)).signatures["serving_default"]

    def compute(images):
        try:
            return served(images=tensorflow.constant(images))["features"].numpy()
        except tensorflow.errors.OpError as error:
            raise UserError(
                f"--to=savedmodel: TensorFlow {tensorflow.__version__} does not run what jax {jax.__version__} writes; "
                "install a newer TensorFlow, or a jax of its age (TensorFlow 2.21 runs what jax 0.11 writes), or take "
                "--to=stablehlo."
            ) from error

    return compute


def _onnx(serve, shape, path):
    """Writes a file of ONNX; returns what the file computes.

    jax2onnx requires an Orbax older than the one that checkpoints are written with and does not use it here. It leaves
    functions of JAX's replaced, so it runs in a process of its own.
    """
    onnxruntime = library("onnxruntime", "onnx", "--to=onnx", beside="jax2onnx")
    check_library("jax2onnx", "onnx", "--to=onnx", beside="jax2onnx")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        program, refused = process.submit(_converted, serve, shape).result()
    if refused:
        raise UserError(f"--to=onnx: jax2onnx does not convert this network ({refused}); take --to=stablehlo.")
    write_file(path, program)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda images: session.run(["features"], {"images": images})[0]


def _converted(serve, shape):
    """The bytes of an ONNX program and None, or None and why there is none."""
    jax.config.update("jax_platforms", "cpu")
    logging.disable(logging.WARNING)  # a line for every shape, and a traceback for every library that is not here
    warnings.simplefilter("ignore")
    jax2onnx = library("jax2onnx", "onnx", "--to=onnx", beside="jax2onnx")
    try:
        program = jax2onnx.to_onnx(
            serve,
            [jax.ShapeDtypeStruct(("batch", *shape), jnp.uint8)],
            model_name="encoder",
            input_names=("images",),
            output_names=("features",),
        )
        return program.SerializeToString(), None
    except Exception as error:  # anything, of an operation that it does not know
        return None, f"{type(error).__name__}: {error}".splitlines()[0]


FORMS = {"stablehlo": _stablehlo, "savedmodel": _savedmodel, "onnx": _onnx}
