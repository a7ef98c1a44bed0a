"""Does the order of the networks hold when they are trained longer? Six times the steps of `white_box_family:muon`.

    crate-jax sweep --config=longer --workdir=workdirs/longer
    crate-jax compare workdirs/longer --out=workdirs/longer --baseline=vit

Question: at 1,000 steps a ViT-MAE completes better than CRATE-MAE at equal parameters, CRATE-alpha's residual closes
the gap, and an overcomplete dictionary with a read-out of its own has the best neighbours (kNN). Is that so after 6,000
steps? One seed, Muon, the quickstart's data and batch; twelve to twenty minutes per point on one CPU core.

Answer (docs/results.md): the order of completion holds (ViT-MAE 26.27 dB, small 26.07, CRATE-alpha 25.93, overcomplete
25.49, CRATE-MAE 25.41); the lead in neighbours does not, and CRATE-alpha's features are as good as the ViT-MAE's.
"""

from crate_jax.config import load_config
from crate_jax.sweeps.points import product

EVALUATE = ("probe --baselines=untrained", "knn", "reconstruct")

VIT = {"model.name": "vit_mae_small", "model.mask_mode": "drop", "model.decoder_depth": 2}
NETWORKS = [
    {"name": "decoupled", "model.sparsification": "overcomplete", "model.lambda_": 0.5, "model.readout": "free"},
    {"name": "crate"},
    {"name": "vit_small", **VIT, "model.width": 64, "model.decoder_width": 64, "model.decoder_num_heads": 4},
    {"name": "alpha", "model.name": "crate_alpha_mae_small", "model.decoder_map": "linear"},
    {"name": "vit", **VIT, "model.width": 128, "model.decoder_width": 128, "model.decoder_num_heads": 4},
]


def get_config():
    """The config of the photographs, 6,000 steps."""
    config = load_config("quickstart")
    config.total_steps, config.optimizer.warmup_steps, config.measure_every_steps = 6000, 600, 0
    return config


def get_hyper():
    """The points."""
    return product(NETWORKS, [{"name": "seed=0", "seed": 0}])
