"""What do the sparsity weight lambda, the step size eta and the mask ratio do? Curves around the quickstart's settings.

    crate-jax sweep --config=sparsity --workdir=workdirs/sparsity
    crate-jax compare workdirs/sparsity --out=workdirs/sparsity --baseline=base

Question: the paper fixes lambda 0.5 and eta 0.1 for the sparsifying step of every layer, and 75 % of the patches are
removed. What do other values do for completion, features and the sparsity of codes? CRATE-MAE, 1,000 steps of Muon, one
seed, one setting changed at a time; three minutes per point on one CPU core. reconstruction.json has completion with
other ratios of the mask than the one that a network was trained with, too.

Answer (docs/results.md; without eta 0.05 and a ratio of 0.9): lambda from 0.05 to 1 changes completion by 0.1 dB and
the fraction of nonzero codes by four points; eta 0.3 costs 0.16 dB with 50 % removed, nothing with 60 %. A ratio of 0.6
completes as well as 0.75 where 75 % are removed.
"""

from crate_jax.config import load_config
from crate_jax.sweeps.points import chain

EVALUATE = ("probe --baselines=none --shots=none", "knn", "reconstruct")


def get_config():
    """The config of the photographs, 1,000 steps."""
    config = load_config("quickstart")
    config.total_steps, config.optimizer.warmup_steps, config.measure_every_steps = 1000, 100, 1000
    return config


def get_hyper():
    """The points."""
    return chain(
        [{"name": "base"}],
        [{"model.lambda_": value} for value in (0.05, 0.1, 0.25, 1.0)],
        [{"model.mask_ratio": value} for value in (0.4, 0.75, 0.9)],
        [{"model.eta": value} for value in (0.05, 0.3)],
    )
