"""Memory does not grow with the epochs, nor with the data set but for its index."""

import os
import subprocess
import sys

import numpy as np
import skimage.data
from PIL import Image

from crate_jax.data import rows
from crate_jax.data.rows import RowReader
from crate_jax.data.sources import open_source

RUN = """
import sys, resource
from crate_jax.config import default_config
from crate_jax.data.pipeline import train_batches
config = default_config()
config.data.name, config.data.data_dir, config.batch_size = "image_folder", sys.argv[1], 20
config.data.num_workers = 2
batches, peaks = train_batches(config, 64, 3, None), []
for epoch in range(4):
    for _ in range(int(sys.argv[2]) // 20):
        next(batches)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
batches.close()
print(*peaks)
"""


def peaks_of(folder, count):
    """Peak resident MiB after each of four epochs over `count` pictures of 200 x 150 pixels."""
    original = folder / "one.jpg"
    if not original.exists():
        Image.fromarray(skimage.data.rocket()).resize((200, 150)).save(original)
    pictures = folder / str(count) / "train" / "class"
    pictures.mkdir(parents=True)
    for number in range(count):
        os.link(original, pictures / f"{number}.jpg")
    command = [sys.executable, "-c", RUN, str(folder / str(count)), str(count)]
    return [int(word) for word in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


def test_flat_over_epochs_and_over_sizes(tmp_path):
    few, many = peaks_of(tmp_path, 100), peaks_of(tmp_path, 1200)
    assert many[-1] - many[0] < 12, "grows with the epochs"
    assert many[-1] - few[-1] < 25, "grows with the data set"  # 1,100 kept pictures would take 130 MiB


def test_kept_pictures_have_a_budget(config, monkeypatch):
    monkeypatch.setattr(rows, "KEPT_BYTES", 100_000)
    source = open_source(config.data.name, "train")
    reader = RowReader(source, config, 32, 3)
    reader.rows(np.arange(100), np.zeros(100, int))
    assert 5 <= len(reader.kept) <= 11 and reader.kept_bytes <= 100_000


def test_the_index_of_a_folder_is_its_paths_and_labels(tmp_path):
    (tmp_path / "train" / "n0").mkdir(parents=True)
    for number in range(100):
        (tmp_path / "train" / "n0" / f"{number:08}.JPEG").touch()
    files = open_source("image_folder", "train+validation", tmp_path).store
    assert files.paths_N.nbytes + files.labels_N.nbytes == 100 * (len("train/n0/00000000.JPEG") + 4)
    assert sorted(files.relative_paths())[-1] == "train/n0/00000099.JPEG"
