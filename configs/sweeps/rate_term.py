"""Does a coding rate in the loss give better features? Masked error - gamma R(features), on the photographs.

    crate-jax sweep --config=rate_term --workdir=workdirs/rate_term
    crate-jax compare workdirs/rate_term --out=workdirs/rate_term --baseline=gamma=0.0

Question: R of the batch's features is what MCR^2 (arXiv 2006.08558) and SimDINO (arXiv 2502.10385) maximise against
collapse. What does it do for kNN and the probe, at what loss of reconstruction? 1,000 steps, the quickstart's settings
otherwise, with AdamW; about four minutes per point on one CPU core.

Answer (docs/results.md; one seed): it costs 0.2 and 0.7 dB, and kNN falls by 0.9 and 1.5 points.
"""

from crate_jax.config import load_config
from crate_jax.sweeps.points import chain, product

EVALUATE = ("probe --baselines=none --shots=none", "knn", "reconstruct")


def get_config():
    """The config of the photographs, 1,000 steps."""
    config = load_config("quickstart")
    config.total_steps, config.optimizer.warmup_steps, config.measure_every_steps = 1000, 100, 0
    config.optimizer.name, config.optimizer.learning_rate = "adamw", 1e-3  # as its table was measured
    return config


def get_hyper():
    """The points, one seed after another."""
    weights = [{"name": f"gamma={weight}", "objective.rate_weight": weight} for weight in (0.0, 0.001, 0.01)]
    return chain(*(product(weights, [{"name": f"seed={seed}", "seed": seed}]) for seed in range(3)))
