"""Completes masked images with a pre-trained network: figures and errors.

    crate-jax reconstruct --workdir=workdirs/quickstart
    crate-jax reconstruct --workdir=workdirs/quickstart --images=a.jpg,b.png
    crate-jax reconstruct --checkpoint=crate_base.pth --config=imagenet_base --out=results --images=FOLDER

Writes reconstruction.json (errors, PSNR and SSIM at the training ratio, of whole images and of removed pixels alone,
and by kind and ratio of the mask), figures/reconstruction.png and figures/reconstruction_by_mask.png. Images are evenly
spaced over data.validation_split; --images=... takes its place (reconstruction-images.json): the shorter side is
resized and the middle is taken.
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.cli.arguments import add_subject_arguments, whole

    add_subject_arguments(parser, workdir="of a pretrain")
    parser.add_argument(
        "--images", help="pictures in place of the held-out split: files, or a folder with its sub-folders"
    )
    parser.add_argument("--limit", type=whole(1), default=1024, help="images of the split that are measured at most")


def run(arguments):
    """The command."""
    from crate_jax.distributed.compilation_cache import keep_compiled
    from crate_jax.evaluation.reconstruct import reconstruct
    from crate_jax.evaluation.subject import resolve

    subject = resolve(arguments, with_decoder=True)
    keep_compiled(subject.out)
    result = reconstruct(subject, pictures=arguments.images, limit=arguments.limit)
    file, results = subject.save(result), result.numbers
    print(
        f"{results['images']} images at ratio {results['mask_ratio']:g}: masked MSE {results['masked_mse']:.4f}, "
        f"visible {results['visible_mse']:.4f}; removed pixels: PSNR {results['masked_psnr']:.2f} dB, SSIM "
        f"{results['masked_ssim']:.3f}; whole images: {results['psnr']:.2f} dB, {results['ssim']:.3f}"
    )
    print(file)
