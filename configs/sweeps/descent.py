"""Which compression step really lowers the coding rate R^c, and what does it cost? Variants on the photographs.

    crate-jax sweep --config=descent --workdir=workdirs/descent
    crate-jax compare workdirs/descent --out=workdirs/descent --baseline=official
    crate-jax analyze --workdir='workdirs/descent/gradient+seed=0' --baseline='workdirs/descent/official+seed=0'

Question: MSSA with its skip ascends R^c (Hu, Zou, Xu, NeurIPS 2024, arXiv 2411.17182). Does R^c through LayerNorm, with
orthonormal subspaces, fall at every encoder layer for z - MSSA, the paper's convex step, the tied projections and the
exact gradient step, and at what loss of probe accuracy against the official step? Three seeds each, 1,000 steps, the
quickstart's settings otherwise, with AdamW. About five minutes per point on one CPU core.

Answer (docs/white_box.md): with tied projections compression lowers R^c at every layer, though not along its gradient;
`convex` does at the official loss. The exact gradient step descends, and does not learn to complete (one seed).
`neumann` was not run.
"""

from crate_jax.config import load_config
from crate_jax.sweeps.points import chain, product

EVALUATE = ("probe --baselines=", "analyze")

STEPS = [
    {"name": "official"},
    {"name": "tied", "model.output_projection": "tied"},
    {"name": "negative", "model.output_projection": "tied", "model.compression_step": "subtract"},
    {"name": "transposed", "model.output_projection": "transposed"},
    {"name": "convex", "model.output_projection": "tied", "model.compression_step": "convex", "model.kappa": 0.5,
     "model.learned_kappa": True},
    {"name": "gradient", "model.compression": "gradient", "model.kappa": 0.5},
    {"name": "neumann", "model.compression": "neumann", "model.kappa": 0.5, "model.epsilon": 16.0},
]  # fmt: skip


def get_config():
    """The config of the photographs, 1,000 steps."""
    config = load_config("quickstart")
    config.total_steps, config.optimizer.warmup_steps, config.measure_every_steps = 1000, 100, 0
    config.optimizer.name, config.optimizer.learning_rate = "adamw", 1e-3  # as its table was measured
    return config


def get_hyper():
    """The points, one seed after another."""
    return chain(*(product(STEPS, [{"name": f"seed={seed}", "seed": seed}]) for seed in range(3)))
