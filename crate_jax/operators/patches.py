"""Images as sequences of patches, row by row; within a patch (row, column, channel), channel fastest."""


def patchify(images_BxHxWxC, patch_size):
    """Cuts images into patches.

    Args:
        images_BxHxWxC: H and W are multiples of patch_size.
        patch_size: p, pixels.

    Returns:
        patches_BxNxF, N = H W / p^2, F = p p C.

    Raises:
        ValueError: the patch does not divide the image.
    """
    batch, height, width, channels = images_BxHxWxC.shape
    if height % patch_size or width % patch_size:
        raise ValueError(f"an image of {height} x {width} pixels is not divisible into patches of {patch_size}")
    rows, columns = height // patch_size, width // patch_size
    cut = images_BxHxWxC.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, patch_size * patch_size * channels)


def unpatchify(patches_BxNxF, patch_size, *, grid=None):
    """The inverse of `patchify`.

    Args:
        patches_BxNxF: F = p p C.
        patch_size: p, pixels.
        grid: (rows, columns) of patches; None: a square.

    Returns:
        images_BxHxWxC.

    Raises:
        ValueError: N is not rows * columns.
    """
    batch, num_patches, size = patches_BxNxF.shape
    rows, columns = grid or (round(num_patches**0.5),) * 2
    if rows * columns != num_patches:
        raise ValueError(f"{num_patches} patches do not fill a grid of {rows} x {columns}")
    channels = size // patch_size**2
    cut = patches_BxNxF.reshape(batch, rows, columns, patch_size, patch_size, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * patch_size, columns * patch_size, channels)
