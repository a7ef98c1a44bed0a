"""Linear probes by the protocols that papers report: the same question, other rules.

ours        layer, pooling and C chosen on held-out training examples; a solver: probe.json
paper       the class token of the last layer and a solver, as CRATE-MAE's paper has it: probe_paper.json
mae         MAE's: a head trained by LARS on the batch-normalised class token (`configs/probe_mae.py`): probe_mae.json
attentive   a query that attends to the patch tokens, and a linear head: probe_attentive.json
"""

import dataclasses

from crate_jax.config import load_config
from crate_jax.errors import UserError
from crate_jax.evaluation.attentive import attentive_probe
from crate_jax.evaluation.finetune import finetune
from crate_jax.evaluation.probe import BASELINES, probe

PROTOCOLS = ("ours", "paper", "mae", "attentive")
OF_TRAINING = ("batch_size", "total_steps", "total_epochs", "log_every_steps", "optimizer", "checkpoint", "mesh")


def probe_by(
    protocol, subject, *, features=None, shots=None, baselines=BASELINES, pictures=None, overrides=(), **interrupt
):
    """The probe of a protocol.

    Args:
        protocol: one of `PROTOCOLS`.
        subject: a `Subject`.
        features, shots, baselines, pictures: of ours, see `evaluation.probe.probe`; the paper's takes `baselines`.
        overrides: pairs (dotted leaf, text or value); MAE's training takes those of a training (`OF_TRAINING`).
        **interrupt: `second_interrupt` of MAE's training, see `evaluation.finetune.finetune`.

    Returns:
        A `Result`, or None if MAE's training was preempted.

    Raises:
        UserError: no such protocol, or what it does not take.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"--protocol={protocol}: give one of {', '.join(PROTOCOLS)}.")
    if protocol == "ours":
        return probe(subject, features=features, shots=shots, baselines=baselines, pictures=pictures)
    for flag, value in (("features", features), ("shots", shots), ("images", pictures)):
        if value is not None:
            raise UserError(
                f"--{flag} does not go with --protocol={protocol}, which fixes the features; leave one out."
            )
    if protocol == "attentive":
        return attentive_probe(subject)
    if protocol == "paper":
        result = probe(subject, features="cls@last", baselines=baselines)
    else:
        leaves = [(name, value) for name, value in overrides if name.partition(".")[0] in OF_TRAINING]
        recipe = load_config("probe_mae", leaves)
        result = finetune(subject, recipe, subject.out / "finetune" / "probe_mae", **interrupt)
        if result is None:
            return None
    return dataclasses.replace(
        result,
        kind=f"probe_{protocol}",
        numbers={"protocol": protocol} | result.numbers,
        figures={f"{name}_{protocol}".replace("finetune", "probe"): draw for name, draw in result.figures.items()},
    )
