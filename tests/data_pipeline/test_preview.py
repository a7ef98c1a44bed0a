"""The grid and the command that shows the data."""

import numpy as np
from PIL import Image

from crate_jax.cli import data
from crate_jax.data.preview import augmentation_grid, images_per_second, tiled


def test_grid(config):
    grid = augmentation_grid(config, 32, 3, examples=4, epochs=5)
    assert grid.shape == (4 * 34 - 2, 6 * 34 - 2, 3)
    columns = [grid[:, 34 * column : 34 * column + 32] for column in range(6)]
    assert len({column.tobytes() for column in columns}) == 6


def test_tiles_stand_where_they_should():
    images = np.arange(2 * 3, dtype=np.uint8).reshape(2, 3, 1, 1, 1) * np.ones((1, 1, 4, 5, 1), np.uint8)
    grid = tiled(images)[..., 0]
    assert grid.shape == (10, 19)
    assert [[grid[6 * row, 7 * column] for column in range(3)] for row in range(2)] == [[0, 1, 2], [3, 4, 5]]
    assert (grid[4:6] == 255).all()


def test_command(config, tmp_path, capsys):
    config.model.name, config.model.image_size, config.model.patch_size = "crate_mae_tiny", 32, 4
    data.main(config, tmp_path / "out", seconds=0.1)
    printed = capsys.readouterr().out
    assert "680 examples, 17 classes (astronaut, brick" in printed and "images/s at 32 pixels" in printed
    assert "validation    test: 1,020 examples, 17 classes" in printed
    assert Image.open(tmp_path / "out" / "augmented.png").size == (8 * 34 - 2, 8 * 34 - 2)


def test_speed_is_measured(config):
    assert images_per_second(config, 32, 3, seconds=0.2) > 50
