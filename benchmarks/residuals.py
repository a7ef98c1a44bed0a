"""Bytes that a network's layers save for the backward pass, by abstract evaluation: nothing is compiled or run.

    python benchmarks/residuals.py --config=imagenet:large --images=64
    python benchmarks/residuals.py --config=imagenet:base --config.model.compression=tssa --config.model.mask_mode=drop

Layers are scanned; residuals are those of all layers together, without the parameters, in GiB of `--images` images,
beside the part that has an axis pair of N x N (scores).
"""

import argparse

import jax
import jax.numpy as jnp

from crate_jax import random_mask
from crate_jax.config import load_config, model_overrides
from crate_jax.models.registry import blank_images, create_model, for_platform, init_params

GIB = 2.0**30


def residuals(model, images):
    """(bytes of all residuals of the loss but the parameters, bytes of those of N x N)."""
    from jax._src.ad_checkpoint import saved_residuals

    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    shape = (images, *blank_images(model).shape[1:])
    mask = jax.eval_shape(lambda: random_mask(jax.random.key(0), images, model.num_patches, model.mask_ratio))

    def loss(params, pixels, mask):
        return jnp.sum(model.apply({"params": params}, pixels, mask).prediction_BxNxF.astype(jnp.float32) ** 2)

    saved = saved_residuals(loss, params, jax.ShapeDtypeStruct(shape, jnp.float32), mask)
    found = [array for array, where in saved if "argument params" not in where]
    scores = [array for array in found if array.ndim > 2 and array.shape[-1] == array.shape[-2] != model.width]
    return tuple(sum(array.size * array.dtype.itemsize for array in arrays) for arrays in (found, scores))


def main():
    """The command line; `--config.a.b=VALUE` overrides a leaf of the config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="imagenet:large")
    parser.add_argument("--images", type=int, default=64, help="of one chip")
    arguments, words = parser.parse_known_args()
    config = load_config(arguments.config, [tuple(word.removeprefix("--config.").split("=", 1)) for word in words])
    print("| remat | residuals, GiB | of N x N, GiB |\n|---|---|---|")
    for remat in ("none", "names", "full"):
        settings = model_overrides(config) | {"remat": remat, "scan_layers": True}
        model = for_platform(create_model(config.model.name, **settings), "tpu")
        total, scores = residuals(model, arguments.images)
        print(f"| {remat} | {total / GIB:.2f} | {scores / GIB:.2f} |", flush=True)


if __name__ == "__main__":
    main()
