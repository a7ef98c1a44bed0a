"""The evaluators within pre-training: (step, params) to scalars, and the observers that ask them and draw.

Cheap enough to run often: one pass over at most a few thousand training and test examples, nearest neighbours and a
linear probe at one C on one feature, and the loss on the held-out images that `reconstruct` measures, under masks as in
training. The numbers are for watching a run; `probe` and `knn` choose and converge.
"""

import logging

import jax
import numpy as np
from etils import epath

from crate_jax.errors import UserError, warn_once
from crate_jax.evaluation import knn
from crate_jax.evaluation.feature_store import NoLabels, labelled_rows
from crate_jax.evaluation.reconstruct import LIMIT, TITLES, completed, measure, measured, of_split, rows_of
from crate_jax.evaluation.selection import compact_labels
from crate_jax.evaluation.solver import fit
from crate_jax.evaluation.subject import Subject
from crate_jax.figure_files import png_of
from crate_jax.figures import curves, picture_grid
from crate_jax.models.masked_autoencoder import MaskedAutoencoder
from crate_jax.training.arithmetic import mask_ratios
from crate_jax.training.loop import Observer
from crate_jax.training.observers import on_one_device

logger = logging.getLogger(__name__)

MOST = 4096  # examples of either split
WATCHED_C = 1e-2
SHOWN = 6  # validation images in a picture
LAYER_CURVES = ("coding_rate", "nonzero")  # of the measurements of the layers


def make_evaluator(config, model):
    """An evaluator of frozen features, the cells in the middle of the encoder, of a run's config and network.

    Returns:
        A function (step, params) to {"evaluation/knn": ..., "evaluation/probe": ...}, fractions of one, and
        "evaluation/loss" of a masked autoencoder. Without labels of two classes it is the loss alone.

    Raises:
        UserError: (when called) no such split.
    """
    features = f"cells@encoder_{max(0, model.depth // 2 - 1):02d}"
    settings = config.data

    def evaluate(step, params):
        del step  # an evaluator may depend on it; this one does not
        subject, scalars = Subject(model, params, config, epath.Path("."), "this run"), {}
        splits = (settings.train_split, settings.validation_split)
        rows = _labelled_rows(subject, splits, features)
        train_N, test_M, classes = compact_labels(*(one.label_N for one in rows)) if rows else (None, None, 0)
        if classes > 1:
            train, test = (one.features[features] for one in rows)
            k = min(knn.NEIGHBOURS, len(train_N))
            scalars["evaluation/knn"] = float(np.mean(knn.predict(train, train_N, test, k=k) == test_M))
            scalars["evaluation/probe"] = fit(train, train_N, WATCHED_C, classes).accuracy(test, test_M)
        else:
            warn_once(f"{settings.name} has no labels of two classes: of held-out images the loss alone is evaluated.")
        if isinstance(model, MaskedAutoencoder):
            images, index_N, _ = of_split(subject, settings.validation_split, LIMIT)  # those of `reconstruct`
            kind, ratios = trained_masks(config, model)
            losses = [measured(subject, images, index_N, kind, ratio, _loss_of)["masked_mse"] for ratio in ratios]
            scalars["evaluation/loss"] = float(np.mean(losses))
        return scalars

    return evaluate


def trained_masks(config, model):
    """(kind, ratios) of the masks that a run trains under, so that a held-out loss compares with the training loss."""
    return config.masking.kind, mask_ratios(config) or (model.mask_ratio,)


def _labelled_rows(subject, splits, features):
    """Features and labels of the splits, some thousands of each; None where a split has no labels of two classes."""
    if any(subject.open_split(split).num_classes == 1 for split in splits):
        return None
    try:
        return [labelled_rows(subject, split, (features,), MOST) for split in splits]
    except NoLabels:
        return None


def _loss_of(completed):
    return {"masked_mse": completed.masked_mse_B}


class Evaluation(Observer):
    """Asks evaluators, functions (step, params) to scalars, every so many steps and at the last one."""

    def __init__(self, evaluators, *, mesh, every, total_steps):
        self._here = on_one_device(mesh)
        self._evaluators, self._every, self._total = evaluators, every, total_steps

    def after_step(self, step, state, batch):
        if step % self._every and step != self._total:
            return None
        params = self._here(state.params if state.ema is None else state.ema)
        return {name: value for one in self._evaluators for name, value in one(step, params).items()}


class Pictures(Observer):
    """Draws for the logs of people, every so many steps: completed validation images, measurements over the layers."""

    def __init__(self, config, model, *, mesh, every):
        self._here = on_one_device(mesh)
        self._config, self._model, self._every = config, model, every
        self._drawn, self._drawn_at, self._images, self._layers = {}, 0, None, {}

    def after_step(self, step, state, batch):
        if step % self._every:
            return
        params = self._here(state.params if state.ema is None else state.ema)
        if jax.process_index() == 0:
            subject = Subject(self._model, params, self._config, epath.Path("."), "this run")
            try:
                self._images = self._images or of_split(subject, self._config.data.validation_split, SHOWN)
            except UserError as reason:  # no run ends for want of a picture in its log
                logger.warning("no picture of step %d: %s", step, reason)
                return
            images, index_B, names = self._images
            kind, ratios = trained_masks(self._config, self._model)
            shown = completed(subject, images, index_B, kind, ratios[len(ratios) // 2])
            found = {name: np.mean(values) for name, values in measure(shown).items()}
            caption = f"step {step}: masked MSE {found['masked_mse']:.4f}, PSNR {found['masked_psnr']:.1f} dB"
            self._drawn_at = step  # whose line is logged when the next step is under way
            figure = picture_grid(rows_of(shown), columns=TITLES, names=names, side=1.4, caption=caption)
            self._drawn["completed"] = png_of(figure)

    def logged(self, step, scalars):
        for kind in LAYER_CURVES:
            rows = [scalars.get(f"{kind}/{layer}") for layer in self._model.encoder_names]
            if None not in rows:
                self._layers[kind] = rows
        if not self._drawn or step < self._drawn_at:
            return None
        drawn, self._drawn = self._drawn, {}
        if self._layers:
            lines = {f"step {step}": (np.arange(self._model.depth), self._layers)}
            drawn["layers"] = png_of(curves(lines, "encoder layer", {kind: kind for kind in self._layers}))
        return drawn
