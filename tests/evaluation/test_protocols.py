"""The probe by the protocols of papers: what each computes, and the files it leaves alone."""

import json

import jax
import numpy as np
import pytest

import crate_jax
from crate_jax.cli.main import main
from crate_jax.errors import UserError
from crate_jax.evaluation.attentive import head_logits, new_head


def read(path):
    return json.loads(path.read_text())


def test_attention_pools_as_the_equation_says():
    random = np.random.default_rng(0)
    head = jax.tree.map(np.asarray, new_head(jax.random.key(0), 12, 3, 5))
    head |= {"kernel": random.normal(size=(12, 5)).astype(np.float32), "bias": random.normal(size=5).astype(np.float32)}
    tokens = random.normal(1, 2, (2, 7, 12)).astype(np.float32)
    for image, logits in zip(tokens.astype(np.float64), head_logits(head, tokens), strict=True):
        normed = (image - image.mean(1, keepdims=True)) / np.sqrt(image.var(1, keepdims=True) + 1e-6)
        pooled = []
        for one in range(3):
            score = normed @ head["key"][:, one] @ head["query"][one] / 2.0  # sqrt(P), P = 12 / 3
            weight = np.exp(score - score.max())
            pooled.append(weight / weight.sum() @ (normed @ head["value"][:, one]))
        np.testing.assert_allclose(logits, np.concatenate(pooled) @ head["kernel"] + head["bias"], atol=1e-4)


def test_the_attentive_probe_learns_and_says_what_it_tried(workdir):
    assert main(["probe", f"--workdir={workdir}", "--protocol=attentive"]) == 0
    found = read(workdir / "probe_attentive.json")
    assert found["accuracy"] > 0.2 and found["interval"][0] < found["accuracy"] < found["interval"][1]
    assert (found["train_examples"], found["test_examples"]) == (360, 100) and len(found["grid"]) == 6
    assert found["held_out"] == max(one["held_out"] for one in found["grid"])
    assert found["data"]["examples"] == 100 and found["source"]["step"] == 4


def test_the_papers_and_maes_have_files_of_their_own(workdir):
    (workdir / "probe.json").unlink(missing_ok=True)
    line = ["probe", f"--workdir={workdir}", "--baselines=none"]
    assert main([*line, "--protocol=paper"]) == 0
    found = read(workdir / "probe_paper.json")
    assert found["features"] == "cls@last" and found["protocol"] == "paper" and "untrained_accuracy" not in found
    flags = ["total_steps=2", "optimizer.warmup_steps=1", "batch_size=64", "checkpoint.every_steps=9"]
    assert main([*line, "--protocol=mae", *(f"--config.{flag}" for flag in flags)]) == 0
    found = read(workdir / "probe_mae.json")
    assert found["protocol"] == "mae" and found["steps"] == 2 and 0 <= found["accuracy"] <= 1
    assert not (workdir / "probe.json").exists()
    assert (workdir / "figures" / "probe_paper.png").exists() and (workdir / "figures" / "probe_mae.png").exists()


@pytest.mark.parametrize(
    ("how", "words"), [({"protocol": "dino"}, "give one of ours"), ({}, "which fixes the features")]
)
def test_what_a_protocol_does_not_take_is_refused(workdir, how, words):
    with pytest.raises(UserError, match=words):
        crate_jax.probe(str(workdir), **({"protocol": "paper", "features": "mean@last"} | how))
