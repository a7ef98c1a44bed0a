"""The analysis of a network: images gathered, layers measured, `report.html`, `analysis.json` and figures written."""

import logging
import time

import jax
import numpy as np

from crate_jax.analysis.claims import judge
from crate_jax.analysis.report import figures_of, numbers, page, sections
from crate_jax.analysis.study import study
from crate_jax.data.own_pictures import picture_data
from crate_jax.errors import UserError, check_whole
from crate_jax.evaluation.feature_store import sample, split_images
from crate_jax.evaluation.results import Result
from crate_jax.storage import write_file, write_json
from crate_jax.training.objective import normalise

logger = logging.getLogger(__name__)

TRAINING_IMAGES = 32


def analyze(subject, *, pictures=None, limit=64, baseline=None):
    """Measures a network and writes the report.

    Args:
        subject: from `evaluation.subject`.
        pictures: of `--images=`; None is the validation split.
        limit: images of the split that are measured.
        baseline: a second subject, measured on the same images; None: only the untrained network stands beside.

    Returns:
        A `Result`, whose numbers are what analysis.json holds and `report`, the path of report.html.

    Raises:
        UserError: no such images, or a baseline that does not take them.
    """
    started = time.time()
    model, (mean, std) = subject.model, subject.statistics
    check_whole("--limit", limit, 2)  # they are compared
    if pictures:
        images, _ = subject.read_pictures(pictures)
        where, stamp = pictures, subject.stamp(data=picture_data(images))
    else:
        images = spread_images(subject, subject.config.data.validation_split, limit)
        where = f"{subject.config.data.name}, {subject.config.data.validation_split}"
        stamp = subject.stamp(subject.config.data.validation_split, len(images))
    train = None if pictures else spread_images(subject, subject.config.data.train_split, TRAINING_IMAGES)
    if baseline is not None and baseline.statistics != subject.statistics:
        raise UserError(
            f"--baseline={baseline.source}: its images are normalised with mean {baseline.statistics[0]} and std "
            f"{baseline.statistics[1]}, those of {subject.source} with {mean} and {std}; the same images cannot "
            f"be given."
        )
    found = study(
        model, subject.params, np.asarray(normalise(images, mean, std)),
        training_images=None if train is None else np.asarray(normalise(train, mean, std)),
        untrained=subject.untrained().params, norm_pix=subject.config.norm_pix_loss, seed=subject.config.seed,
        baseline=baseline and (baseline.source, baseline.model, baseline.params, baseline.config.norm_pix_loss),
    )  # fmt: skip
    logger.info("measured %d images in %.0f s", len(images), time.time() - started)
    claimed, made = judge(found), sections(found, (mean, std))
    results = numbers(found, made, claimed) | stamp
    rows, columns = found.parts["grid"]
    facts = [
        ("network", subject.source),
        ("images", f"{len(images)} of {where}"),
        ("layers", f"{model.depth} encoder, {getattr(model, 'decoder_depth', 0)} decoder"),
        ("tokens", f"{rows} x {columns} patches of {model.patch_size} pixels; width {model.width}"),
        ("subspaces" if found.has_subspaces else "heads", f"{model.num_heads} per layer"),
    ]
    if baseline is not None:
        facts.append(("baseline", baseline.source))
    suffix = subject.suffix("analysis", stamp["data"])
    report = subject.out / f"report{suffix}.html"
    if jax.process_index() == 0:
        _write(report, f"analysis{suffix}", made, page(found, made, claimed, facts))
        write_json(subject.out / f"analysis{suffix}.json", results)
    tables, figures = {"layers": results["layers"]}, figures_of(found, (mean, std))
    return Result("analysis", results | {"report": str(report)}, tables, figures)


def spread_images(subject, split, limit):
    """Images from all over a split, unaugmented: uint8 NxHxWxC.

    Raises:
        UserError: no such split, or no image in it that can be read.
    """
    images, _, _ = split_images(subject, split, sample(subject.open_split(split).num_examples, limit))
    if len(images) < 2:
        name = subject.config.data.name
        raise UserError(f"split {split!r} of {name} has {len(images)} readable images; at least 2 are needed.")
    return images


def _write(report, name, made, html):
    for one in made:
        for figure, png in one["figures"].items():
            write_file(report.parent / "figures" / name / f"{figure}.png", png)
    write_file(report, html)
