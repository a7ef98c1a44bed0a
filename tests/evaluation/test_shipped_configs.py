"""Every installed config of an evaluation, on data sets with the names, splits and classes of the real ones."""

import json

import jax
import numpy as np
import pytest

import crate_jax
from crate_jax.cli.main import main
from crate_jax.config import default_config, load_config, model_overrides, override
from crate_jax.evaluation.recipe import compose
from crate_jax.evaluation.subject import Subject, of_checkpoint
from crate_jax.models.registry import create_model
from crate_jax.pretrained import Pretrained
from crate_jax.training.program import build_program
from tests.tfds import tfds

SETS = {  # TFDS name: (classes, splits)
    "cifar10": (10, ("train", "test")),
    "cifar100": (100, ("train", "test")),
    "oxford_flowers102": (102, ("train", "validation", "test")),
    "oxford_iiit_pet": (37, ("train", "test")),
    "imagenet2012": (1000, ("train", "validation")),
}
SIZE = {"image_size": 16, "patch_size": 8, "width": 16, "num_heads": 2, "depth": 1, "decoder_depth": 1}
SHORT = {"total_steps": 2, "batch_size": 8, "optimizer.warmup_steps": 1, "model.drop_path": 0.0}
FINE_TUNING = [
    *(f"finetune:{one}" for one in ("small", "medium", "cifar10", "cifar100", "flowers", "pets")),
    *(f"finetune_imagenet:{one}" for one in ("base", "large", "huge")),
    "probe_mae",
]


def builder(name, classes, splits):
    """A TFDS builder of twelve small pictures a split, four of each of three classes."""

    class Builder(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = {}  # noqa: RUF012

        def _info(self):
            features = {"image": tfds.features.Image(shape=(None, None, 3))}
            features["label"] = tfds.features.ClassLabel(num_classes=classes)
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(number) for number, split in enumerate(splits)}

        def _generate_examples(self, seed):
            random = np.random.default_rng(seed)
            for number in range(12):
                pixels = random.integers(0, 256, (20, 24, 3)) // 2 + 60 * (number % 3)
                yield number, {"image": pixels.astype(np.uint8), "label": number % 3}

    Builder.name = name
    return Builder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    with tfds.core.registered.skip_registration():
        for name, (classes, splits) in SETS.items():
            builder(name, classes, splits)(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A folder with an untrained network of ImageNet's config, as small as it can be."""
    leaves = {"model.name": "crate_mae_tiny", **{f"model.{name}": value for name, value in SIZE.items()}}
    config = override(default_config(), leaves.items())
    model = create_model("crate_mae_tiny", **SIZE)
    params = crate_jax.init_params(model, jax.random.key(0))
    folder = tmp_path_factory.mktemp("network") / "saved"
    Pretrained(Subject(model, params, config, folder, "here")).save(folder)
    return folder


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "flowers", "pets"])
def test_probes(data, root, network, tmp_path):
    line = [f"--checkpoint={network}", f"--config=probe:{data}", f"--out={tmp_path}", f"--config.data.data_dir={root}"]
    line += ["--config.data.num_workers=1"]
    assert main(["probe", *line, "--protocol=paper", "--baselines=raw"]) == 0
    found = json.loads((tmp_path / "probe_paper.json").read_text())
    assert found["test_examples"] == 12 and found["train_examples"] == (24 if data == "flowers" else 12)
    assert found["raw_pixel_accuracy"] > 0.9  # the classes differ in brightness


@pytest.mark.parametrize("recipe", FINE_TUNING)
def test_recipes_of_fine_tuning_fit_their_data(recipe, root, network):
    subject = of_checkpoint(str(network))
    config = load_config(recipe, [*SHORT.items(), ("data.data_dir", str(root))])
    composed = compose(config, subject.config, subject.model)
    model = create_model(composed.model.name, **model_overrides(composed))
    assert model.num_classes == SETS[composed.data.name][0] and model.width == 16
    program = build_program(composed, 12, model=model, objective=lambda *_: None)
    assert program.total_steps == 2 and composed.data.validation_split in SETS[composed.data.name][1]


@pytest.mark.parametrize("recipe", ["finetune:pets", "finetune_imagenet:large"])
def test_fine_tuning_runs(recipe, root, network, tmp_path):
    flags = [f"--config.{name}={value}" for name, value in (SHORT | {"data.data_dir": root}).items()]
    line = [f"--checkpoint={network}", f"--config={recipe}", f"--out={tmp_path}", "--config.data.num_workers=1"]
    assert main(["finetune", *line, *flags]) == 0
    found = json.loads((tmp_path / "finetune.json").read_text())
    assert found["steps"] == 2 and found["test_examples"] == 12
