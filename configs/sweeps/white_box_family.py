"""Does a white box have to be worse? The white-box family against ViT-MAE on the embedded photographs.

    crate-jax sweep --config=white_box_family --workdir=workdirs/white_box_family
    crate-jax compare workdirs/white_box_family --out=workdirs/white_box_family --baseline=vit

`--config=white_box_family:muon` is the same with Muon.

Question: which of overcomplete dictionary, free read-out and residual (CRATE-alpha, arXiv 2405.20299), and which
compression (ToST 2412.17810, CBSA 2509.16875), closes how much of the gap in reconstruction, and at what price in
features. Three seeds each, 1,000 steps, the quickstart's data and batch, for all; `vit` has the same configuration,
`vit_small` about the same parameters and arithmetic. None of the settings is tuned for any row. The steps that descend
are in `descent`, more steps in `longer`. Three to seven minutes per point on one CPU core.

Answer (docs/results.md; Muon, three seeds of all): CRATE-alpha's layers come within 0.28 dB [-0.15, 0.70] of the
ViT-MAE of the same configuration, mirrored in the decoder within 0.14 dB [-0.53, 0.80]; CRATE-MAE is 0.87 dB below it.
It is the residual that does so. Without it an overcomplete dictionary with a read-out of its own has the best features:
kNN 5 to 6 points above both ViT-MAE; probes separate no two networks. AdamW (eight of the networks): the
same order, 0.7 to 1.1 dB lower, and no such lead of features.
"""

from crate_jax.config import load_config
from crate_jax.sweeps.points import chain, product

ARGUMENTS = ("adamw", "muon")
RATES = {"adamw": 1e-3, "muon": 3e-3}
EVALUATE = ("probe --baselines=untrained --shots=none", "knn", "reconstruct")

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
    {"name": "vit", **VIT, "model.width": 128, "model.decoder_width": 128, "model.decoder_num_heads": 4},
    {"name": "vit_small", **VIT, "model.width": 64, "model.decoder_width": 64, "model.decoder_num_heads": 4},
]  # fmt: skip


def get_config(optimizer="adamw"):
    """The config of the photographs, 1,000 steps."""
    config = load_config("quickstart")
    config.total_steps, config.optimizer.warmup_steps, config.measure_every_steps = 1000, 100, 0
    config.optimizer.name, config.optimizer.learning_rate = optimizer, RATES[optimizer]
    return config


def get_hyper():
    """The points, one seed after another."""
    return chain(*(product(NETWORKS, [{"name": f"seed={seed}", "seed": seed}]) for seed in range(3)))
