"""Does a white box have to be worse? The white-box family against ViT-MAE on the embedded photographs.

    crate-jax sweep --config=white_box_family --workdir=workdirs/white_box_family
    crate-jax compare workdirs/white_box_family --out=workdirs/white_box_family --baseline=vit

Question: which of overcomplete dictionary, free read-out and residual (CRATE-alpha, arXiv 2405.20299), and which
compression (ToST 2412.17810, CBSA 2509.16875, the exact gradient), closes how much of the gap in reconstruction, and at
what price in features. Three seeds each, the quickstart's data, steps, batch and optimizer for all; `vit` has the same
configuration, `vit_small` about the same parameters. None of the settings is tuned for any row. About 2.5 minutes per
point on two CPU cores, 90 minutes in all (estimated from the quickstart). Not run yet: there is no answer here.
"""

from crate_jax.config import load_config
from crate_jax.sweeps.points import chain, product

EVALUATE = ("probe", "knn", "reconstruct")

OVERCOMPLETE = {"model.sparsification": "overcomplete", "model.lambda_": 0.5}
VIT = {"model.name": "vit_mae_small", "model.mask_mode": "drop", "model.decoder_depth": 2}
NETWORKS = [
    {"name": "crate"},
    {"name": "overcomplete", **OVERCOMPLETE, "model.readout": "tied"},
    {"name": "decoupled", **OVERCOMPLETE, "model.readout": "free"},
    {"name": "alpha", "model.name": "crate_alpha_mae_small", "model.decoder_map": "linear"},
    {"name": "alpha_mirrored", "model.name": "crate_alpha_mae_small"},
    {"name": "tost", "model.name": "tost_mae_tiny"},
    {"name": "tost_overcomplete", "model.name": "tost_mae_tiny", **OVERCOMPLETE, "model.readout": "tied"},
    {"name": "cbsa", "model.name": "cbsa_mae_tiny", "model.pool_size": 4},
    {"name": "cbsa_overcomplete", "model.name": "cbsa_mae_tiny", "model.pool_size": 4, **OVERCOMPLETE,
     "model.readout": "tied"},
    {"name": "gradient", "model.compression": "gradient", "model.kappa": 0.1, "model.learned_kappa": True},
    {"name": "vit", **VIT, "model.width": 128, "model.decoder_width": 128, "model.decoder_num_heads": 4},
    {"name": "vit_small", **VIT, "model.width": 64, "model.decoder_width": 64, "model.decoder_num_heads": 4},
]  # fmt: skip


def get_config():
    """The config of the photographs."""
    config = load_config("quickstart")
    config.measure_every_steps = 0
    return config


def get_hyper():
    """The points, one seed after another."""
    return chain(*(product(NETWORKS, [{"name": f"seed={seed}", "seed": seed}]) for seed in range(3)))
