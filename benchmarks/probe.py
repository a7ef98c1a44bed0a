"""Is the choice of the linear probe slower than scikit-learn's `LogisticRegression` on the same features?

    taskset -c 0 python benchmarks/probe.py                      # minutes, most of them scikit-learn's
    taskset -c 0 python benchmarks/probe.py --scikit_learn=none  # ours alone
    taskset -c 0 python benchmarks/probe.py --scikit_learn=cls@last,cells@last

2,711 pictures of 48 pixels, crops of the photographs that ship with scikit-image and scikit-learn, in a folder, with
the quickstart's network after a few steps. First the whole command `crate-jax probe`, twice: the second finds compiled
programs. Then the choice alone, of twelve features of the network, as many of the untrained one and the raw pixels:
the same standardised features, held-out parts and strengths C for both, in processor seconds. Ours is called twice, as
the first call compiles. scikit-learn starts each C where the one before ended, as ours does, and stops at its own
tolerance.
"""

import argparse
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from crate_jax.data.embedded.photographs import PHOTOGRAPHS, photograph
from crate_jax.evaluation import selection
from crate_jax.evaluation.feature_store import labelled_rows
from crate_jax.evaluation.features import RAW, candidate_names
from crate_jax.evaluation.solver import moments
from crate_jax.evaluation.subject import of_run

PICTURES, SIDE = 2711, 48
SETTINGS = (
    "model.image_size=48",
    "data.name=image_folder",
    "data.validation_split=validation",
    "data.show_split=train",
    "data.show_classes=chelsea,coffee",
    "total_steps=20",
    "batch_size=16",
    "optimizer.warmup_steps=2",
    "measure_every_steps=0",
)


def make_pictures(folder):
    """Writes the crops: squares of all sizes anywhere in a photograph, one photograph a class."""
    random, names = np.random.RandomState(0), list(PHOTOGRAPHS)
    pixels = {name: photograph(name) for name in names}
    for number in range(PICTURES):
        name = names[number % len(names)]
        height, width = pixels[name].shape[:2]
        side = int(np.exp(random.uniform(np.log(SIDE), np.log(min(height, width)))))
        top, left = random.randint(height - side + 1), random.randint(width - side + 1)
        crop = Image.fromarray(pixels[name][top : top + side, left : left + side])
        (folder / name).mkdir(parents=True, exist_ok=True)
        crop.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / name / f"{number:04d}.png")


def command(*words):
    """(wall, processor) seconds of a command of `crate-jax`."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "crate_jax", *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begin, computed


def scikit_learn(features_NxG, label_N, held_FxN):
    """The best held-out accuracy over the strengths, as `selection.choose` counts it."""
    from sklearn.linear_model import LogisticRegression

    mean_G, scale_G = moments(features_NxG)
    x_NxG, right_C = (features_NxG - mean_G) * scale_G, np.zeros(len(selection.STRENGTHS))
    for held_N in held_FxN:
        model = LogisticRegression(warm_start=True, max_iter=1000)
        for number, C in enumerate(selection.STRENGTHS):
            model.set_params(C=C).fit(x_NxG[~held_N], label_N[~held_N])
            right_C[number] += np.sum(model.predict(x_NxG[held_N]) == label_N[held_N])
    return right_C.max() / held_FxN.sum()


def main():
    """The benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scikit_learn", default="all", help="names of features, all or none")
    parser.add_argument("--folder", help="of the pictures and the run, kept; a temporary one if not given")
    arguments = parser.parse_args()
    folder = pathlib.Path(arguments.folder or tempfile.mkdtemp())
    pictures, run = folder / "pictures", folder / "run"
    if not pictures.exists():
        make_pictures(pictures)
    if not run.exists():
        settings = [f"--config.{one}" for one in (*SETTINGS, f"data.data_dir={pictures}")]
        command("pretrain", "--config=quickstart", f"--workdir={run}", *settings)
    for which in ("first", "second"):
        wall, computed = command("probe", f"--workdir={run}")
        print(f"crate-jax probe, {which} time: {wall:.1f} s, {computed:.1f} s of the processor", flush=True)

    subject, sets = of_run(run), {}
    names = tuple(candidate_names(subject.model.depth))
    asked = (("", subject, names), ("untrained ", subject.untrained(), names), ("", subject, (RAW,)))
    for prefix, one, wanted in asked:
        rows = labelled_rows(one, one.config.data.train_split, wanted)
        sets |= {prefix + name: features_NxG for name, features_NxG in rows.features.items()}
    label_N = np.unique(rows.label_N, return_inverse=True)[1]
    held_FxN = selection.held_out_masks(label_N)
    print(f"{len(label_N)} training examples, {len(held_FxN)} held-out parts, {len(selection.STRENGTHS)} strengths")
    print("| features | numbers | ours, s | scikit-learn, s | ours / scikit-learn | held out, ours | scikit-learn |")
    print("|---|---|---|---|---|---|---|")
    total_2, wanted = np.zeros(2), arguments.scikit_learn.split(",")
    for name, features_NxG in sets.items():
        for _ in range(2):
            begin = time.process_time()
            ours = selection.choose({name: features_NxG}, label_N, label_N.max() + 1).accuracy
            seconds = [time.process_time() - begin]
        row = f"| {name} | {features_NxG.shape[1]} | {seconds[0]:.2f} |"
        if "all" in wanted or name in wanted:
            begin = time.process_time()
            theirs = scikit_learn(features_NxG, label_N, held_FxN)
            seconds.append(time.process_time() - begin)
            total_2 += seconds
            row += f" {seconds[1]:.2f} | {seconds[0] / seconds[1]:.2f} | {ours:.4f} | {theirs:.4f} |"
        print(row, flush=True)
    if total_2[1]:
        print(f"| together | | {total_2[0]:.1f} | {total_2[1]:.1f} | {total_2[0] / total_2[1]:.2f} | | |")
    if not arguments.folder:
        shutil.rmtree(folder)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
