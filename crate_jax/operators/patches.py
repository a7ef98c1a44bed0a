"""Images as sequences of patches, row by row; within a patch (row, column, channel), channel fastest."""

import numbers


def image_shape(image_size):
    """(height, width) of an image size: one number for a square, or the pair itself.

    >>> image_shape(224), image_shape((96, 128))
    ((224, 224), (96, 128))
    """
    return (image_size, image_size) if isinstance(image_size, numbers.Integral) else tuple(image_size)


def grid_of(image_size, patch_size):
    """(rows, columns) of an image's patches; each size is in pixels, one number for a square or (height, width).

    Raises:
        ValueError: the patch does not divide the image.
    """
    (height, width), (high, wide) = image_shape(image_size), image_shape(patch_size)
    if not (1 <= high <= height and 1 <= wide <= width) or height % high or width % wide:
        raise ValueError(f"an image of {height} x {width} pixels is not divisible into patches of {patch_size}")
    return height // high, width // wide


def patchify(images_BxHxWxC, patch_size):
    """Cuts images of any dtype into patches_BxNxF, N = H W / p^2, F = p p C; `patch_size` is p, or (height, width).

    Raises:
        ValueError: the patch does not divide the images.
    """
    (batch, *size, channels), (high, wide) = images_BxHxWxC.shape, image_shape(patch_size)
    rows, columns = grid_of(size, patch_size)
    cut = images_BxHxWxC.reshape(batch, rows, high, columns, wide, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, high * wide * channels)


def unpatchify(patches_BxNxF, patch_size, *, grid=None):
    """The inverse of `patchify`, for any number of channels; `grid` is (rows, columns) of patches, None a square.

    Raises:
        ValueError: N is not rows * columns, or F no multiple of p p.
    """
    (batch, num_patches, features), (high, wide) = patches_BxNxF.shape, image_shape(patch_size)
    rows, columns = grid or (round(num_patches**0.5),) * 2
    if num_patches != rows * columns or features % (high * wide):
        raise ValueError(
            f"{num_patches} patches of {features} numbers do not fill a grid of {rows} x {columns} patches of "
            f"{high} x {wide} pixels"
        )
    cut = patches_BxNxF.reshape(batch, rows, columns, high, wide, features // (high * wide))
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * high, columns * wide, -1)
