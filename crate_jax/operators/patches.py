"""Images as sequences of patches, row by row; within a patch (row, column, channel), channel fastest."""

import numbers


def image_shape(image_size):
    """(height, width) of an image size: one number for a square, or the pair itself.

    >>> image_shape(224), image_shape((96, 128))
    ((224, 224), (96, 128))
    """
    return (image_size, image_size) if isinstance(image_size, numbers.Integral) else tuple(image_size)


def grid_of(image_size, patch_size):
    """(rows, columns) of an image's patches.

    Args:
        image_size: pixels, one number for a square or (height, width).
        patch_size: p, pixels.

    Raises:
        ValueError: the patch does not divide the image.
    """
    height, width = image_shape(image_size)
    if not 1 <= patch_size <= min(height, width) or height % patch_size or width % patch_size:
        raise ValueError(f"an image of {height} x {width} pixels is not divisible into patches of {patch_size}")
    return height // patch_size, width // patch_size


def patchify(images_BxHxWxC, patch_size):
    """Cuts images into patches.

    Args:
        images_BxHxWxC: H and W are multiples of patch_size.
        patch_size: p, pixels.

    Returns:
        patches_BxNxF, N = H W / p^2, F = p p C.

    Raises:
        ValueError: the patch does not divide the images.
    """
    batch, *size, channels = images_BxHxWxC.shape
    rows, columns = grid_of(size, patch_size)
    cut = images_BxHxWxC.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, patch_size**2 * channels)


def unpatchify(patches_BxNxF, patch_size, *, grid=None):
    """The inverse of `patchify`.

    Args:
        patches_BxNxF: F = p p C, any number of channels C.
        patch_size: p, pixels.
        grid: (rows, columns) of patches; None: a square.

    Returns:
        images_BxHxWxC.

    Raises:
        ValueError: N is not rows * columns, or F no multiple of p p.
    """
    batch, num_patches, features = patches_BxNxF.shape
    rows, columns = grid or (round(num_patches**0.5),) * 2
    if num_patches != rows * columns or features % patch_size**2:
        raise ValueError(
            f"{num_patches} patches of {features} numbers do not fill a grid of {rows} x {columns} patches of "
            f"{patch_size} x {patch_size} pixels"
        )
    cut = patches_BxNxF.reshape(batch, rows, columns, patch_size, patch_size, features // patch_size**2)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * patch_size, columns * patch_size, -1)
