"""The encoder for serving: pixels in, features out, as StableHLO that runs without crate_jax.

    exported = jax.export.deserialize(open("encoder.stablehlo", "rb").read())
    features_BxG = exported.call(images_BxHxWxC)      # uint8, any batch size

Normalisation is part of the program, and the parameters are constants of it.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import export

from crate_jax.errors import UserError
from crate_jax.evaluation.features import parse_features, several_features
from crate_jax.evaluation.results import write_text
from crate_jax.operators.patches import image_shape
from crate_jax.training.objective import normalise

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-4  # of the largest feature, between the exported program and the network


def export_encoder(subject, features, file):
    """Writes `file` and `file`.json, which says what goes in, what comes out and of which network it is.

    Args:
        subject: a `Subject`.
        features: POOLING@LAYER.
        file: to write.

    Returns:
        The length of a feature vector.

    Raises:
        UserError: no such feature, or a program that does not compute what the network does.
    """
    model, params, statistics = subject.model, jax.device_get(subject.params), subject.statistics
    parse_features(features, model.depth)
    kernels = {name: "xla" for name in ("attention_kernel", "product_kernel") if hasattr(model, name)}
    model = model.clone(**kernels)  # what every platform runs

    def serve(images_BxHxWxC):
        return several_features(model, params, normalise(images_BxHxWxC, *statistics), (features,))[features]

    shape = (*image_shape(model.image_size), model.channels)
    (batch,) = export.symbolic_shape("batch")
    program = export.export(jax.jit(serve), platforms=PLATFORMS)(jax.ShapeDtypeStruct((batch, *shape), jnp.uint8))
    data = bytes(program.serialize())
    images = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(np.uint8)
    expected = np.asarray(jax.jit(serve)(images))
    difference = np.abs(np.asarray(export.deserialize(bytearray(data)).call(images)) - expected).max()
    if not difference <= TOLERANCE * np.abs(expected).max():
        raise UserError(f"--features={features}: the exported program is {difference:.2g} off; report this network.")
    file = epath.Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    described = {
        "features": features,
        "input": {"dtype": "uint8", "shape": ["batch", *shape], "values": "pixels, 0 to 255"},
        "output": {"dtype": "float32", "shape": ["batch", expected.shape[1]]},
        "platforms": PLATFORMS,
        "jax": jax.__version__,
    }
    stamp = subject.stamp(data={"name": subject.config.data.name, "split": None, "fingerprint": None, "examples": 0})
    write_text(f"{file}.json", json.dumps(described | stamp, indent=2) + "\n")
    return expected.shape[1]
