"""White-box masked autoencoding: CRATE-MAE in JAX and Flax.

The public names load when they are first used, so that `import crate_jax` costs nothing.
"""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "create_model": "crate_jax.models.registry",
    "init_params": "crate_jax.models.registry",
    "trace": "crate_jax.models.trace",
    "random_mask": "crate_jax.operators.masking",
    "masked_mse": "crate_jax.operators.losses",
    "load_config": "crate_jax.config",
    "load": "crate_jax.training.run_folder",
    "pretrain": "crate_jax.cli.pretrain",
    "load_torch_checkpoint": "crate_jax.interop.torch_checkpoint",
    "extract_features": "crate_jax.evaluation.features",
    "measure_layers": "crate_jax.analysis.layerwise",
    "attention_maps": "crate_jax.analysis.attention_maps",
    "subspace_codes": "crate_jax.analysis.attention_maps",
    "UserError": "crate_jax.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'crate_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return __all__
