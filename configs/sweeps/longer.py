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
from crate_jax.sweeps.points import load_sweep

EVALUATE = ("probe --baselines=untrained", "knn", "reconstruct")

NETWORKS = ("decoupled", "crate", "vit_small", "alpha", "vit")  # of `white_box_family`


def get_config():
    """The config of the photographs, 6,000 steps."""
    config = load_config("quickstart")
    config.total_steps, config.optimizer.warmup_steps, config.measure_every_steps = 6000, 600, 0
    return config


def get_hyper():
    """The points: seed 0 of the family's."""
    family = {point.name: point.overrides for point in load_sweep("white_box_family").points}
    return [{"name": name, **family[name]} for name in (f"{network}+seed=0" for network in NETWORKS)]
