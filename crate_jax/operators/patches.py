"""Images as sequences of patches, row by row; within a patch (row, column, channel), channel fastest."""

import dataclasses
import numbers

from crate_jax.operators.positions import resize_positions, sincos_positions


def image_shape(image_size):
    """(height, width) of an image size: one number for a square, or the pair itself.

    >>> image_shape(224), image_shape((96, 128))
    ((224, 224), (96, 128))
    """
    return (image_size, image_size) if isinstance(image_size, numbers.Integral) else tuple(image_size)


@dataclasses.dataclass(frozen=True)
class PatchGrid:
    """The patches of an image: how many, how large, and where they are.

    Attributes:
        rows, columns: of patches.
        patch: p, pixels along each side of a patch.
    """

    rows: int
    columns: int
    patch: int

    @classmethod
    def of(cls, image_size, patch):
        """The grid of an image.

        Args:
            image_size: pixels, one number for a square or (height, width).
            patch: p, pixels.

        Raises:
            ValueError: the patch does not divide the image.
        """
        height, width = image_shape(image_size)
        if patch < 1 or height < patch or width < patch or height % patch or width % patch:
            raise ValueError(f"an image of {height} x {width} pixels is not divisible into patches of {patch}")
        return cls(height // patch, width // patch, patch)

    @property
    def shape(self):
        """(rows, columns)."""
        return self.rows, self.columns

    @property
    def image_size(self):
        """(height, width), pixels."""
        return self.rows * self.patch, self.columns * self.patch

    @property
    def num_patches(self):
        """N."""
        return self.rows * self.columns

    def patchify(self, images_BxHxWxC):
        """Cuts images into patches.

        Args:
            images_BxHxWxC: H x W is `image_size`.

        Returns:
            patches_BxNxF, F = p p C.

        Raises:
            ValueError: the images have another size.
        """
        batch, *size, channels = images_BxHxWxC.shape
        if tuple(size) != self.image_size:
            raise ValueError(f"images of {size[0]} x {size[1]} pixels in a grid of {self}")
        cut = images_BxHxWxC.reshape(batch, self.rows, self.patch, self.columns, self.patch, channels)
        return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, self.num_patches, self.patch**2 * channels)

    def unpatchify(self, patches_BxNxF):
        """The inverse of `patchify`.

        Args:
            patches_BxNxF: F = p p C, any number of channels C.

        Returns:
            images_BxHxWxC.

        Raises:
            ValueError: N is not `num_patches`, or F no multiple of p p.
        """
        batch, num_patches, features = patches_BxNxF.shape
        if num_patches != self.num_patches or features % self.patch**2:
            raise ValueError(f"{num_patches} patches of {features} numbers do not fill a grid of {self}")
        channels = features // self.patch**2
        cut = patches_BxNxF.reshape(batch, self.rows, self.columns, self.patch, self.patch, channels)
        return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, *self.image_size, channels)

    def positions(self, width):
        """The sine-cosine table: T x D, float32, T = N + 1, row 0 for the class token (`positions`)."""
        return sincos_positions(self.shape, width)

    def resize_positions(self, table_TxD, old):
        """A table of positions for this grid from a table for another.

        Args:
            table_TxD: of `old`, sine-cosine or learned, with a row for the class token.
            old: a `PatchGrid`.

        Returns:
            The table for this grid, in its dtype; the same table where rows and columns agree.
        """
        return resize_positions(table_TxD, old.shape, self.shape)

    def __str__(self):
        return f"{self.rows} x {self.columns} patches of {self.patch} x {self.patch} pixels"


def patchify(images_BxHxWxC, patch_size):
    """`PatchGrid.patchify` by the grid of the images themselves.

    Args:
        images_BxHxWxC: H and W are multiples of patch_size.
        patch_size: p, pixels.

    Returns:
        patches_BxNxF, N = H W / p^2, F = p p C.

    Raises:
        ValueError: the patch does not divide the images.
    """
    return PatchGrid.of(images_BxHxWxC.shape[1:3], patch_size).patchify(images_BxHxWxC)


def unpatchify(patches_BxNxF, patch_size, *, grid=None):
    """`PatchGrid.unpatchify`.

    Args:
        patches_BxNxF: F = p p C.
        patch_size: p, pixels.
        grid: (rows, columns) of patches; None: a square.

    Returns:
        images_BxHxWxC.

    Raises:
        ValueError: N is not rows * columns.
    """
    side = round(patches_BxNxF.shape[1] ** 0.5)
    return PatchGrid(*(grid or (side, side)), patch_size).unpatchify(patches_BxNxF)
