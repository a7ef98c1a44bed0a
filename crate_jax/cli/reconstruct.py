"""Completes masked images with a pre-trained network: figures and errors.

    crate-jax reconstruct --workdir=workdirs/quickstart
    crate-jax reconstruct --workdir=workdirs/quickstart --images=a.jpg,b.png
    crate-jax reconstruct --checkpoint=crate_base.pth --config=imagenet_base --out=results --images=FOLDER

Writes reconstruction.json (errors, PSNR and SSIM at the training ratio, and by kind and ratio of the mask),
figures/reconstruction.png and figures/reconstruction_by_mask.png. With --images those pictures are completed instead of
data.validation_split; the shorter side is resized and the middle is taken.
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.cli.numbers import whole
    from crate_jax.evaluation.subject_arguments import add_subject_arguments

    add_subject_arguments(parser)
    parser.add_argument("--images", help="pictures of your own: files separated by commas, or a folder")
    parser.add_argument("--limit", type=whole(1), default=1024, help="images of the split that are measured at most")


def run(arguments):
    """The command."""
    from crate_jax.distributed.compilation_cache import keep_compiled
    from crate_jax.evaluation.reconstruction_run import reconstruct
    from crate_jax.evaluation.subject import resolve

    subject = resolve(arguments, with_decoder=True)
    keep_compiled(subject.out)
    results = reconstruct(subject, pictures=arguments.images, limit=arguments.limit)
    subject.write("reconstruction.json", results)
    print(
        f"{results['images']} images at ratio {results['mask_ratio']:g}: masked MSE {results['masked_mse']:.4f}, "
        f"visible {results['visible_mse']:.4f}, PSNR {results['psnr']:.2f} dB, SSIM {results['ssim']:.3f}; "
        f"{subject.out / 'figures' / 'reconstruction.png'}"
    )
