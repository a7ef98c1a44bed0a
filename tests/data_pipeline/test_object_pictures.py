"""benchmarks/object_pictures.py: packages to a zip file, and that to a folder that `image_folder` reads."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from benchmarks import object_pictures
from crate_jax.data.image_folder import open_folder

SIZES = {"classes": 2, "train": 3, "test": 2, "size": 32, "seed": 0}


@pytest.fixture
def debs(tmp_path, monkeypatch):
    """A folder with a package of two objects, red and green, and two photographs, blue and grey noise."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not installed")
    root, debs = tmp_path / "root", tmp_path / "debs"
    (root / "DEBIAN").mkdir(parents=True)
    debs.mkdir()
    (root / "DEBIAN" / "control").write_text(
        "Package: fake\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: fake\n"
    )
    rng, stamps, nature = (
        np.random.default_rng(0),
        root / "usr/share/tuxpaint/stamps/food",
        root / "usr/share/mate/nature",
    )
    stamps.mkdir(parents=True)
    nature.mkdir(parents=True)
    for name, colour in (("Rose", (200, 0, 0, 255)), ("lime", (0, 200, 0, 255))):
        image = Image.new("RGBA", (150, 150))
        image.paste(colour, (25, 50, 125, 100))
        image.save(stamps / f"{name}.png")
    blue = np.zeros((200, 300, 3), np.uint8)
    blue[..., 2] = rng.integers(0, 256, (200, 300))
    Image.fromarray(blue).save(nature / "Sea.jpg", quality=95, subsampling=0)
    grey = np.repeat(rng.integers(0, 256, (200, 300, 1), dtype=np.uint8), 3, axis=2)
    Image.fromarray(grey).save(nature / "Stone.jpg", quality=95)
    subprocess.run(["dpkg-deb", "--build", root, debs / "fake.deb"], check=True, capture_output=True)
    monkeypatch.setattr(object_pictures, "OBJECTS", "food/ Rose lime")
    monkeypatch.setattr(object_pictures, "TRAIN_PHOTOGRAPHS", "mate/nature/ Sea.jpg")
    monkeypatch.setattr(object_pictures, "TEST_PHOTOGRAPHS", "mate/nature/ Stone.jpg")
    return debs


def test_packages_become_a_folder_of_pictures(debs, tmp_path):
    archive = tmp_path / "objects.zip"
    assert object_pictures.pack(debs, archive) == 4
    for workers in (1, 2):
        assert object_pictures.make(archive, tmp_path / f"out{workers}", **SIZES, workers=workers) == 2
    out, again = tmp_path / "out1", tmp_path / "out2"
    for part, split, count in (("train", "train+validation", 6), ("test", "test", 4)):
        source = open_folder(out, split)
        assert source.num_examples == count and source.class_names == ("lime", "rose")
        for path in out.glob(f"{part}/*/*.jpg"):
            assert path.read_bytes() == (again / path.relative_to(out)).read_bytes()
            pixels_HxWx3 = np.asarray(Image.open(path), float)
            assert pixels_HxWx3.shape == (32, 32, 3)
            red, green, blue = pixels_HxWx3.reshape(-1, 3).T
            own, other = (red, green) if path.parent.name == "rose" else (green, red)
            assert 10 < np.sum(own - other > 60) < 900  # the object covers a part of the picture
            behind = np.abs(red - green) < 30
            is_blue = blue[behind].mean() > 2 * red[behind].mean()
            assert is_blue == (part == "train")  # each part has its own photographs


def test_what_is_missing_is_named(debs, tmp_path, monkeypatch):
    archive = tmp_path / "objects.zip"
    object_pictures.pack(debs, archive)
    assert object_pictures.make(archive, tmp_path / "one", **SIZES | {"classes": 1}, workers=1) == 1
    with pytest.raises(SystemExit, match="--classes=3: there are 2"):
        object_pictures.make(archive, tmp_path / "three", **SIZES | {"classes": 3}, workers=1)
    with pytest.raises(SystemExit, match="holds no package"):
        object_pictures.pack(tmp_path, archive)
    monkeypatch.setattr(object_pictures, "OBJECTS", "food/ Rose lime plum")
    with pytest.raises(SystemExit, match=r"lack 1 pictures, among them .*plum"):
        object_pictures.pack(debs, archive)
