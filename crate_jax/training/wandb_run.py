"""A run of Weights & Biases, with the writer's methods of TensorBoard's event file (`training.observers.Logs`).

Its project, entity and mode are wandb's own settings: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline, `wandb login`. A
resumed training goes on in the same run, whose id lies in the workdir.
"""

import io
import os

from PIL import Image

from crate_jax.extras import library
from crate_jax.storage import is_remote

PROJECT = "crate_jax"  # where WANDB_PROJECT names none
FILE = "wandb_run_id"  # in the workdir


def wandb_library():
    """The library. Raises UserError where it is not installed."""
    return library("wandb", "wandb", "logging=wandb")


class WandbRun:
    """Writes one run.

    Args:
        folder: the workdir, an `epath.Path`; its name is the run's.
        step: optimizer steps finished; from step 0 a new run is made.
    """

    def __init__(self, folder, step):
        self._library, file = wandb_library(), folder / FILE
        known = file.read_text().strip() if step and file.exists() else None
        self._run = self._library.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=known,
            resume="allow" if known else None,
            dir=None if is_remote(folder) else str(folder),
        )
        file.write_text(self._run.id)

    def write_hparams(self, hyperparameters):
        """The settings of the run: a dictionary of name to string, number or bool."""
        self._run.config.update(hyperparameters, allow_val_change=True)

    def write_scalars(self, step, scalars):
        """Numbers by name, for one step."""
        self._run.log(dict(scalars), step=int(step))

    def write_pictures(self, step, pictures):
        """Pictures by name, for one step: PNG files as bytes."""
        opened = {name: self._library.Image(Image.open(io.BytesIO(png))) for name, png in pictures.items()}
        self._run.log(opened, step=int(step))

    def close(self):
        """Until everything is written."""
        self._run.finish()
