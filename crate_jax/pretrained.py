"""A trained network in Python: from a run, an official file, a saved folder, the hub, or a name.

net = crate_jax.from_pretrained("photographs")  # ships with the package; "workdirs/quickstart" is a run
x = net.preprocess(["cat.jpg", array_uint8])
net.features(x, "mean@last")
model, params = net
"""

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.config import to_json
from crate_jax.data.own_pictures import fitted, read_picture
from crate_jax.errors import UserError, check_path, check_real, check_whole, first_line, names_arguments, nearest
from crate_jax.evaluation.features import check_images, extract_features
from crate_jax.evaluation.reconstruct import NOTE, TITLES, complete_tiles, rows_of
from crate_jax.evaluation.results import identity_in, read_result
from crate_jax.evaluation.subject import Subject, in_memory, of_checkpoint, of_run
from crate_jax.extras import library
from crate_jax.figures import picture_grid
from crate_jax.interop.checkpoint_file import MODEL, weights_in, write_folder
from crate_jax.interop.export import write_official
from crate_jax.interop.named_networks import list_networks, located
from crate_jax.interop.tensor_files import local_target
from crate_jax.models.masked_autoencoder import MaskedAutoencoder
from crate_jax.models.registry import num_parameters
from crate_jax.operators.masking import KINDS
from crate_jax.operators.patches import image_shape
from crate_jax.storage import exists, write_file
from crate_jax.training.objective import normalise
from crate_jax.version import __version__


@dataclasses.dataclass(frozen=True, repr=False)
class Pretrained:
    """A network with its parameters, the config it was trained with, and what is done with it.

    Unpacks as `model, params`.

    Attributes:
        subject: what evaluations take.
    """

    subject: Subject

    @property
    def model(self) -> Any:
        """The Linen module."""
        return self.subject.model

    @property
    def params(self) -> Any:
        """The tree that `model.apply({"params": params}, ...)` takes."""
        return self.subject.params

    @property
    def config(self) -> Any:
        """The config of the run (for a file: the defaults and what the file says)."""
        return self.subject.config

    def __iter__(self):
        return iter((self.model, self.params))

    def __repr__(self):
        step = f", step {self.subject.step}" if self.subject.step is not None else ""
        count = num_parameters(self.model) / 1e6
        return f"<Pretrained {self.config.model.name}, {count:.2f} M parameters, from {self.subject.source}{step}>"

    def preprocess(self, images, *, tiles: int = 1) -> jax.Array:
        """Pictures as the network takes them: the shorter side resized, the middle cropped, normalised as in training.

        Args:
            images: a picture, or a list or iterator of them: paths (local or gs://), PIL images, or uint8 arrays
                (H x W, H x W x C); or one uint8 array B x H x W x C.
            tiles: along a side: 4 makes images four times as high and wide, which `reconstruct` completes in tiles.

        Returns:
            images_BxHxWxC, float32.

        Raises:
            UserError: what is no picture, or an array of another type or rank.
        """
        check_whole("preprocess: tiles", tiles, 1, 64)
        several = isinstance(images, list | tuple | Iterator) or getattr(images, "ndim", 2) > 3
        images = images if several else [images]  # a path, a PIL image, one array
        shape, channels = tuple(tiles * side for side in image_shape(self.model.image_size)), self.model.channels
        crops = []
        for image in images:
            picture = read_picture(image, channels, self.config.data.max_pixels, "preprocess")
            crops.append(fitted(picture, shape, self.config.data.interpolation))
        if not crops:
            raise UserError(
                "preprocess: there are no images; give a path, a PIL image, a uint8 array or a list of them."
            )
        return normalise(jnp.asarray(np.stack(crops)), *self.subject.statistics)

    def features(self, images_BxHxWxC, features: str = "mean@last") -> jax.Array:
        """features_BxG, float32, of images from `preprocess`; see `crate_jax.extract_features`."""
        return extract_features(self.model, self.params, images_BxHxWxC, features)

    def reconstruct(self, images_BxHxWxC, mask_ratio: float | None = None, *, mask_kind="random", seed=0):
        """Masks images and lets the network complete them.

        Args:
            images_BxHxWxC: from `preprocess`: of the network's own size, or of a whole number of tiles of that size,
                which are completed one by one.
            mask_ratio: fraction of patches removed; None is the training run's.
            mask_kind: random, block or grid.
            seed: of the masks.

        Returns:
            A `Reconstruction`: pixels from 0 to 1, errors, `.plot()`.

        Raises:
            UserError: a network without a decoder, or images that do not fit.
        """
        if not isinstance(self.model, MaskedAutoencoder):
            raise UserError(f"reconstruct: a {type(self.model).__name__} has no decoder; take a pre-trained network.")
        check_images(self.model, images_BxHxWxC)
        ratio = self.model.mask_ratio if mask_ratio is None else mask_ratio
        check_real("mask_ratio", ratio, 0, 1)
        check_whole("seed", seed, 0)
        if not 0 < int(self.model.num_patches * (1 - ratio)) < self.model.num_patches:
            raise UserError(f"mask_ratio={ratio}: some patches must stay and some be removed; give about 0.75.")
        if mask_kind not in KINDS:
            raise UserError(f"mask_kind={mask_kind}: give one of {', '.join(KINDS)}.")
        own, shape = image_shape(self.model.image_size), images_BxHxWxC.shape[1:3]
        if any(side % one for side, one in zip(shape, own, strict=True)):
            raise UserError(
                f"reconstruct: images of {shape[0]} x {shape[1]} pixels are no whole number of tiles of {own[0]} x "
                f"{own[1]}; `preprocess` makes what fits."
            )
        options = {"key": jax.random.key(seed), "kind": mask_kind, "ratio": ratio}
        found = complete_tiles(self.subject, images_BxHxWxC, np.arange(len(images_BxHxWxC)), **options)
        return Reconstruction(found, ratio)

    def save(self, path) -> None:
        """Writes the network, for `from_pretrained` and `--checkpoint`.

        Args:
            path: `.pth` or `.safetensors` (the official class's tensors), or a folder: parameters, config.json and a
                card (README.md).

        Raises:
            UserError: no official class is like the network, the folder holds something else, or a remote path.
        """
        check_path("path", path)
        path = local_target(path)
        checkpoint = in_memory(self.model, self.params, self.config)
        ending = path.suffix.lower()
        if ending in (".pth", ".pt", ".safetensors"):
            write_official(checkpoint, path, "safetensors" if ending == ".safetensors" else "torch")
            return
        write_folder(checkpoint, path)
        write_file(path / "config.json", to_json(self.config))
        write_file(path / "README.md", self.card())

    def card(self) -> str:
        """The model card, Markdown: what it is, what it was trained on, results of the run, how to load it."""
        data, subject = self.config.data, self.subject
        results = []
        for file in sorted(subject.out.glob("*.json")) if subject.own_data else ():
            found = read_result(file)
            if identity_in(found) == subject.identity:
                name = found["data"]["name"]
                results += [f"| {file.stem} | {name} | {key} | {found[key]:.4g} |" for key in CARD if key in found]
        table = ["| result | data | measure | value |", "| --- | --- | --- | ---: |", *results] if results else []
        return "\n".join(
            [
                "---", "library_name: crate_jax", "tags: [crate, masked-autoencoder, white-box, jax]", "---", "",
                f"# {self.config.model.name}", "",
                f"{num_parameters(self.model):,} parameters; images of {self.model.image_size} pixels, patches of "
                f"{self.model.patch_size}, width {self.model.width}, {self.model.depth} encoder layers.", "",
                f"Trained on `{data.name}` ({data.train_split}) for {subject.step or 'some'} steps with "
                f"crate_jax {__version__}; identity of the parameters `{subject.identity}`.", "",
                *table, "", "```python", "import crate_jax", 'net = crate_jax.from_pretrained("PATH OR hf://ORG/NAME")',
                'net.features(net.preprocess("picture.jpg"), "mean@last")', "```", "",
            ]
        )  # fmt: skip

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None, endpoint=None) -> str:
        """Uploads the folder that `save` writes to the Hugging Face hub.

        Args:
            repo_id: "org/name"; made if it is not there.
            private, token, endpoint: as huggingface_hub takes them.

        Returns:
            The address of the commit.

        Raises:
            UserError: huggingface_hub is not installed, or the hub refuses.
        """
        hub = library("huggingface_hub", "hub", "push_to_hub")
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            try:
                api = hub.HfApi(token=token, endpoint=endpoint or os.environ.get("HF_ENDPOINT"))
                api.create_repo(repo_id, private=private, exist_ok=True)
                message = f"crate_jax {__version__}, parameters {self.subject.identity}"
                return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message))
            except (OSError, ValueError) as error:  # the hub's errors are kinds of these
                raise UserError(f"push_to_hub({repo_id!r}): {first_line(error)}") from error


CARD = ("accuracy", "untrained_accuracy", "masked_mse", "masked_psnr")  # of the results, on the card


@dataclasses.dataclass(frozen=True, repr=False)
class Reconstruction:
    """Completed images.

    Attributes:
        completed: arrays: `original`, `mask`, `reconstruction`, `prediction` (B x H x W x C, 0 to 1), `masked_mse_B`.
        mask_ratio: fraction of patches removed.
    """

    completed: Any
    mask_ratio: float

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.completed, name)

    def __repr__(self):
        error = float(np.mean(self.completed.masked_mse_B))
        count = len(self.completed.original)
        return f"<Reconstruction of {count} images, {self.mask_ratio:.0%} removed, masked MSE {error:.4f}>"

    def plot(self, most: int = 8):
        """Original, masked, reconstruction and prediction of the first images, as a matplotlib figure.

        A notebook shows it as the last value of a cell, also without `%matplotlib inline`.
        """
        check_whole("most", most, 1)
        rows = rows_of(self.completed, most)
        caption = f"{self.mask_ratio:.0%} of the patches removed. {NOTE}"
        return picture_grid(rows, columns=TITLES, side=1.4, caption=caption)


@names_arguments
def from_pretrained(source, *, step: int | None = None, **overrides) -> Pretrained:
    """A trained network.

    Args:
        source: a workdir of `pretrain` or `finetune`; an official `.pth`, `.safetensors` or `.npz`; a folder that
            `Pretrained.save` or `convert --to=flax` wrote; "hf://org/name" or "hf://org/name@revision"; or the name of
            a network that ships with the package (`list_networks`).
        step: of a kept checkpoint of a workdir; None is the newest.
        **overrides: attributes of the network that a file does not hold (num_heads=6, lambda_=0.1, image_size=96).

    Returns:
        A `Pretrained`.

    Raises:
        UserError: there is no such network, or it cannot be read.
    """
    if not isinstance(source, str | os.PathLike) or not str(source).strip():
        raise UserError(f"source={str(source)[:40]!r} is no name or path; give a workdir, a file or a network's name.")
    if step is not None:
        check_whole("step", step, 0)
    text, leaves = os.path.expanduser(str(source)), [(f"model.{name}", value) for name, value in overrides.items()]
    path = located(text)
    from etils import epath

    folder = epath.Path(path)
    if exists(folder / "config.json", f"source={text}") and not (folder / MODEL).exists() and not weights_in(folder):
        return Pretrained(of_run(str(path), leaves, step=step))
    if not folder.exists():
        known = list_networks()
        raise UserError(
            f"from_pretrained({text!r}): there is no such workdir, file, folder or network"
            f"{nearest(text, known) if known else '.'}"
        )
    if step is not None:
        raise UserError(f"step={step}: {text} is no workdir, so it holds one step only; leave step out.")
    subject = of_checkpoint(path, overrides=leaves)
    out = epath.Path(tempfile.gettempdir()) / f"crate_jax-{subject.identity}"
    return Pretrained(dataclasses.replace(subject, out=out, source=text))


@names_arguments
def load(workdir, step: int | None = None) -> tuple:
    """(model, params) of a run; see `from_pretrained`.

    Args:
        workdir: of `pretrain` or `finetune`.
        step: of a kept checkpoint; None is the newest.

    Raises:
        UserError: no run, or no checkpoint in it.
    """
    check_path("workdir", workdir)
    subject = of_run(str(workdir), step=step)
    return subject.model, subject.params
