"""`crate-jax analyze` from the command line: one page that holds everything, numbers that agree, errors of one line."""

import functools
import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

import crate_jax
from crate_jax.analysis import report
from crate_jax.analysis.analyze import analyze
from crate_jax.analysis.claims import judge
from crate_jax.analysis.report import page, sections
from crate_jax.analysis.study import study
from crate_jax.cli.main import main

CONFIG = """
from crate_jax.config import default_config

def get_config():
    config = default_config()
    config.model.image_size = 32
    config.model.patch_size = 8
    config.model.num_heads = 3
    config.data.name = "image_folder"
    config.data.data_dir = "{folder}"
    return config
"""


@pytest.fixture(autouse=True)
def small_figures(monkeypatch):
    monkeypatch.setattr(report, "DPI", 50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two dozen small pictures in two classes, with a train and a validation split, and a config."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        for kind in ("fine", "coarse"):
            (root / split / kind).mkdir(parents=True)
            for number in range(3):
                pixels = rng.integers(0, 255, (40, 40, 3) if kind == "fine" else (5, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((40, 40)).save(root / split / kind / f"{number}.png")
    (root / "config.py").write_text(CONFIG.format(folder=root))
    return root


def test_a_checkpoint_from_the_command_line(folder, data_folder, tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    returned = []
    kept = functools.partial(lambda run, *given, **flags: returned.append(run(*given, **flags)) or returned[0], analyze)
    monkeypatch.setattr("crate_jax.analysis.analyze.analyze", kept)
    checkpoint = data_folder / "official_crate_mae_d48.pth"
    command = ["analyze", f"--checkpoint={checkpoint}", f"--config={folder / 'config.py'}", f"--out={tmp_path}"]
    assert main([*command, "--limit=4"]) == 0
    html = (tmp_path / "report.html").read_text()
    assert "<script" not in html and not re.search(r'(src|href)="(?!data:|#|https://arxiv\.org)', html)
    figures = sorted(path.stem for path in (tmp_path / "figures" / "analysis").glob("*.png"))
    assert len(figures) >= 15 and html.count("data:image/png;base64,") == len(figures)
    (result,) = returned
    assert sorted(result.figures) == figures and result.plot().axes and result.plot("atoms_01").axes
    assert result.report == str(tmp_path / "report.html") and result.tables["layers"] == result.layers
    assert all(width in html for width in ('name="viewport"', "prefers-color-scheme: dark"))

    results = json.loads((tmp_path / "analysis.json").read_text())
    assert [layer["name"] for layer in results["layers"]] == ["encoder_00", "encoder_01", "decoder_00", "decoder_01"]
    assert results["layers"][2]["nonzero"] is None and results["layers"][2]["coding_rate"] > 0
    assert results["images"] == 4 and results["findings"]["layers"]
    assert results["data"]["split"] == "validation" and results["data"]["examples"] == 4
    assert results["source"]["path"] == str(checkpoint) and len(results["source"]["parameters"]) == 16
    claimed = {row["name"]: row for row in results["claims"]}
    assert len(claimed) == len(results["claims"]) >= 12
    printed = capsys.readouterr().out
    for row in claimed.values():  # the untrained network beside the trained one
        assert f"{row['claim']}  {row['shown']}; untrained {row['baselines']['untrained']['shown']}  (" in printed
    for row in claimed.values():  # four images decide nothing, parameters do
        assert (row["verdict"] != "inconclusive") == row["exact"]
        assert row["baselines"]["untrained"]["value"] is not None and row["claim"] and row["threshold"]
    assert html.index("Claims of the theory") < html.index("<img") and html.count("<tr>") == len(claimed) + 1
    assert all(f'id="{row["section"]}"' in html for row in claimed.values())
    assert "arxiv.org/abs/2411.17182" in html and "nats" in html.split('id="glossary"')[1]

    from crate_jax.analysis.analyze import spread_images
    from crate_jax.config import load_config
    from crate_jax.evaluation.subject import Subject
    from crate_jax.training.objective import normalise

    model, params = crate_jax.load_torch_checkpoint(checkpoint, num_heads=3, image_size=32, patch_size=8)
    subject = Subject(model, params, load_config(str(folder / "config.py")), tmp_path, "")
    images = normalise(spread_images(subject, "validation", 4), *subject.statistics)
    measured = crate_jax.measure_layers(model, params, images)
    for key in ("coding_rate", "coding_rate_official", "nonzero"):
        written = [layer[key] for layer in results["layers"][:2]]
        np.testing.assert_allclose(written, measured[key].mean(1), rtol=1e-4)


def test_user_mistakes_are_one_sentence(folder, data_folder, tmp_path, capsys):
    pytest.importorskip("torch")
    known = [f"--config={folder / 'config.py'}", f"--out={tmp_path}"]
    checkpoint = f"--checkpoint={data_folder / 'official_crate_mae_d48.pth'}"
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    for arguments, words in (
        (["--checkpoint=nowhere.pth", *known], "nowhere.pth"),
        ([checkpoint, *known, f"--images={broken}"], "broken.jpg"),
        ([checkpoint, *known, "--images=missing.png"], "missing.png"),
        ([checkpoint, *known, "--limit=1"], "from 2"),
        ([checkpoint, *known, "--config.data.validation_split=test"], "test"),
        ([f"--workdir={tmp_path}"], "no run"),
        ([f"--checkpoint={broken}", *known], "broken.jpg"),
    ):
        assert main(["analyze", *arguments]) == 1
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and words in error[0], error


@pytest.mark.parametrize("name", ["crate_alpha_mae_small", "tost_mae_tiny"])
def test_other_white_box_layers(name):
    """Overcomplete codes; compression of linear cost, which has no attention to draw."""
    size = {"image_size": 16, "patch_size": 8, "width": 16, "num_heads": 2, "depth": 1, "decoder_depth": 1}
    model = crate_jax.create_model(name, **size)
    images = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
    found = study(model, crate_jax.init_params(model, jax.random.key(0)), images)
    names = {one["name"] for one in sections(found, ((0.5,) * 3, (0.25,) * 3))}
    assert {"objective", "steps", "subspaces", "usage"} <= names
    assert ("attention" in names) == (name == "crate_alpha_mae_small")
    assert found.parts["usage"].shape[1] == 16 * (4 if name == "crate_alpha_mae_small" else 1)
    claimed = {row["name"]: row for row in judge(found)}
    assert claimed["compression_descends"]["interval"] and claimed["sparsification_descends"]["interval"]
    for row in claimed.values():  # why MSSA fails is said of MSSA, where it fails
        explained = row["verdict"] != "supported" and name == "crate_alpha_mae_small"
        assert explained or not any(word in row["note"] for word in ("Hu, Zou", "CRATE-S"))
    assert ("Hu, Zou" in str(claimed)) == (name == "crate_alpha_mae_small")


@pytest.mark.parametrize("name", ["vit_mae_small", "crate_tiny"])
def test_networks_that_lack_something(name):
    """A ViT has no subspaces, a classifier no decoder: what there is is shown."""
    size = {"image_size": 16, "patch_size": 8, "width": 16, "num_heads": 2, "depth": 1}
    if name == "vit_mae_small":
        size |= {"decoder_depth": 1, "decoder_width": 16, "decoder_num_heads": 2}
    model = crate_jax.create_model(name, **size)
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
    found = study(model, crate_jax.init_params(model, jax.random.key(0)), images, norm_pix=True)
    made = sections(found, ((0.5,) * 3, (0.25,) * 3))
    names = {one["name"] for one in made}
    assert {"layers", "attention", "colours", "spectra"} <= names
    assert ("subspaces" in names) == (name == "crate_tiny")
    assert ("denoising" in names) == (name == "vit_mae_small")
    assert "iterative" not in names  # standardised patches cannot be pasted
    assert all(one["found"] and all(png[:4] == b"\x89PNG" for png in one["figures"].values()) for one in made)
    claimed = {row["name"] for row in judge(found)}
    assert ("bases_are_orthonormal" in claimed) == (name == "crate_tiny")
    assert ("layers_denoise" in claimed) == (name == "vit_mae_small")
    html = page(found, made, judge(found), [("network", name)])
    assert "layer analysis" in html.lower()
    said = " ".join(one[key] for one in made for key in ("title", "shows", "read", "predicts"))
    if name == "vit_mae_small":  # nothing is said of what it does not have
        assert "not derived" in html and "ISTA" not in html and "U_k" not in html
        assert not any(word in said for word in ("U_k", "LASSO", "own subspaces", "subspaces attend", "w w^T")), said


def test_two_runs_side_by_side():
    """Another network on the same images: its values beside, CKA between layers; one that does not fit is refused."""
    size = {"image_size": 16, "patch_size": 8, "width": 16, "num_heads": 2, "depth": 1, "decoder_depth": 1}
    images = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
    model, other = (crate_jax.create_model("crate_mae_tiny", **size | more) for more in ({}, {"depth": 2}))
    params, beside = (crate_jax.init_params(one, jax.random.key(seed)) for seed, one in enumerate((model, other)))
    found = study(model, params, images, baseline=("runs/b", other, beside, False))
    assert found.parts["similarity"]["cka_IxJ"].shape == (2, 3)
    rows = judge(found)
    assert all(row["baselines"]["runs/b"]["shown"] for row in rows)
    assert all(row["interval"][0] <= row["interval"][1] for row in rows if not row["exact"])
    made = sections(found, ((0.5,) * 3, (0.25,) * 3))
    html = page(found, made, rows, [("network", "a"), ("baseline", "runs/b")])
    assert "similarity" in {one["name"] for one in made} and html.count('data-label="baseline"') == len(rows)
    gray = crate_jax.create_model("crate_mae_tiny", **size, channels=1)
    with pytest.raises(crate_jax.UserError, match="channels"):
        study(model, params, images, baseline=("gray", gray, crate_jax.init_params(gray, jax.random.key(0)), False))
