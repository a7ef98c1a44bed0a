"""CRATE-MAE against ViT-MAE on the embedded digits and photographs: same configuration, and same parameter count.

    crate-jax sweep --config=crate_vs_vit --workdir=workdirs/crate_vs_vit
    crate-jax compare workdirs/crate_vs_vit --out=workdirs/crate_vs_vit --baseline=vit

`crate_token` and `crate_drop` are one network in two mask modes; `vit` is a ViT-MAE of the same width, depth and heads;
`vit_small` has about CRATE-MAE's parameters. The same data, steps, batch and optimizer for all; three seeds on
photographs, one on digits. Four to eight minutes per point on one CPU core.

Answer (docs/results.md): at 3,000 steps of AdamW the ViT-MAE of the same configuration completes photographs 1.51 dB
[1.29, 1.73] better than CRATE-MAE, that of the same parameters 0.92 dB [0.66, 1.17]; probe and kNN tell neither from
CRATE-MAE. Published for the large networks (paper, not reproduced here): CRATE-MAE-B 44.6 M
parameters, ViT-MAE-B 143.8 M, 31 %.
"""

from crate_jax.config import flatten, load_config
from crate_jax.sweeps.points import chain, product

EVALUATE = ("probe", "knn", "reconstruct")

VIT = {"model.name": "vit_mae_small", "model.mask_mode": "drop", "model.decoder_depth": 2}
NETWORKS = [
    {"name": "crate_token", "model.mask_mode": "token"},
    {"name": "crate_drop", "model.mask_mode": "drop"},
    {"name": "vit", **VIT, "model.width": 128, "model.decoder_width": 128, "model.decoder_num_heads": 4},
    {"name": "vit_small", **VIT, "model.width": 64, "model.decoder_width": 64, "model.decoder_num_heads": 4},
]


def get_config():
    """The config of the photographs."""
    config = load_config("quickstart")
    config.measure_every_steps = 0
    config.total_steps, config.optimizer.warmup_steps = 3000, 300  # as its table was measured
    config.optimizer.name, config.optimizer.learning_rate = "adamw", 1e-3
    return config


def digits():
    """What the digits' config has that the photographs' has not."""
    base, other = flatten(get_config()), flatten(load_config("quickstart_digits"))
    skip = ("model.mask_mode", "measure_every_steps", "seed")
    return {leaf: value for leaf, value in other.items() if value != base[leaf] and leaf not in skip}


def get_hyper():
    """The points."""
    seeds = [{"name": f"seed={seed}", "seed": seed} for seed in range(3)]

    photographs = product([{"name": "photographs"}], NETWORKS, seeds)
    return chain(photographs, product([{"name": "digits", **digits()}], NETWORKS, seeds[:1]))
