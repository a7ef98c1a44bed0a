"""White-box masked autoencoding: CRATE-MAE in JAX and Flax.

    net = crate_jax.from_pretrained("workdirs/quickstart")
    net.features(net.preprocess("cat.jpg"), "mean@last")
    crate_jax.probe(net).accuracy

The public names load when they are first used, so that `import crate_jax` costs nothing.
"""

# ruff: noqa: F401 (imports that only an editor or a type checker reads)
import importlib
from typing import TYPE_CHECKING

from crate_jax.version import __version__

_PUBLIC = {
    "crate_jax.interop.named_networks": ("list_networks",),
    "crate_jax.pretrained": ("from_pretrained", "Pretrained", "load"),
    "crate_jax.api": (
        *("pretrain", "probe", "knn", "reconstruct", "finetune", "analyze", "segment"),
        *("list_models", "list_configs"),
    ),
    "crate_jax.models.registry": ("create_model", "init_params"),
    "crate_jax.models.trace": ("trace",),
    "crate_jax.operators.masking": ("random_mask",),
    "crate_jax.operators.losses": ("masked_mse",),
    "crate_jax.config": ("load_config", "default_config"),
    "crate_jax.interop.checkpoint_file": ("load_torch_checkpoint",),
    "crate_jax.evaluation.features": ("extract_features",),
    "crate_jax.analysis.layerwise": ("measure_layers",),
    "crate_jax.analysis.attention_maps": ("attention_maps", "subspace_codes"),
    "crate_jax.errors": ("UserError",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    "__version__",
    *_HOME,
]

if TYPE_CHECKING:  # what an editor completes
    from crate_jax.analysis.attention_maps import attention_maps, subspace_codes
    from crate_jax.analysis.layerwise import measure_layers
    from crate_jax.api import (
        analyze,
        finetune,
        knn,
        list_configs,
        list_models,
        pretrain,
        probe,
        reconstruct,
        segment,
    )
    from crate_jax.config import default_config, load_config
    from crate_jax.errors import UserError
    from crate_jax.evaluation.features import extract_features
    from crate_jax.interop.checkpoint_file import load_torch_checkpoint
    from crate_jax.interop.named_networks import list_networks
    from crate_jax.models.registry import create_model, init_params
    from crate_jax.models.trace import trace
    from crate_jax.operators.losses import masked_mse
    from crate_jax.operators.masking import random_mask
    from crate_jax.pretrained import Pretrained, from_pretrained, load


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'crate_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__():
    return __all__
