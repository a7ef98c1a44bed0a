"""Odd and damaged files by a seeded generator; `benchmarks/fuzz_files.py` runs as many as wanted."""

import pytest

from benchmarks import fuzz_files as fuzz


def test_pictures_are_read_or_refused_in_a_sentence():
    read, refused = fuzz.run([(n, lambda n=n: fuzz.one_picture(n, 1)) for n in range(60)])
    assert read >= 30 and refused
    # before Pillow 13, an ICO of one pixel's width was written with no picture in it
    assert all("damaged" in words or "TIFF" in words or "ICO" in words for words, _ in refused)


def test_checkpoints_are_read_or_refused_in_a_sentence(tmp_path):
    pytest.importorskip("torch")
    read, refused = fuzz.run([(n, lambda n=n: fuzz.one_checkpoint(n, 1, tmp_path)) for n in range(60)])
    assert read >= 20 and len(refused) >= 10
