"""What a config trains on: source, counts, a picture of augmented examples, and images per second on this machine.

    crate-jax data --config=quickstart [--out=FOLDER] [--seconds=5]
    crate-jax data --config=imagenet_base --to=array_record --out=FOLDER

The first writes augmented.png: a row per example, first as evaluation sees it, then as training sees it in successive
epochs. The second converts a TFDS data set from TFRecord, which cannot be read by index, to ArrayRecord, once: the
records' bytes are unchanged, files are converted in parallel, and the same command resumes where it was stopped. Train
with --config.data.data_dir=FOLDER afterwards.
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.cli.arguments import real

    parser.add_argument("--config", required=True, help="a file, or the name of an installed config")
    parser.add_argument("--out", default=".", help="folder to write to (default: here)")
    parser.add_argument("--to", choices=("array_record",), help="convert the data set into --out, a TFDS root folder")
    parser.add_argument("--seconds", type=real(0, 3600), default=5.0, help="to measure the speed for; 0: not at all")


def run(arguments):
    """The command."""
    from crate_jax.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    if not arguments.to:
        return main(config, arguments.out, arguments.seconds)
    from crate_jax.data.conversion import convert

    folder = convert(config.data.name, config.data.data_dir, arguments.out)
    print(f"converted to {folder}; train with --config.data.data_dir={arguments.out}")


def main(config, out, seconds=5.0):
    """Prints what the data are and writes the picture.

    Args:
        config: a checked config.
        out: folder for augmented.png.
        seconds: to measure the speed for; 0 does not.
    """
    from etils import epath

    from crate_jax.config import model_overrides
    from crate_jax.data.picture import png
    from crate_jax.data.preview import augmentation_grid, images_per_second
    from crate_jax.data.sources import open_source
    from crate_jax.models.registry import create_model
    from crate_jax.storage import write_file

    model = create_model(config.model.name, **model_overrides(config))
    data = config.data
    splits = {"train": data.train_split, "validation": data.validation_split}
    lines = [f"{part:<13} {sentence(open_source(data.name, split, data.data_dir))}" for part, split in splits.items()]
    print(f"data set      {data.name}, augmentation {data.augmentation}", *lines, sep="\n")
    grid = augmentation_grid(config, model.image_size, model.channels)
    path = epath.Path(out) / "augmented.png"
    write_file(path, png(grid.squeeze()))
    print(f"examples      {path}")
    if seconds:
        speed = images_per_second(config, model.image_size, model.channels, seconds)
        print(f"speed         {speed:,.0f} images/s at {model.image_size} pixels, batches of {config.batch_size}")


def sentence(source):
    """One line on a split."""
    classes = source.class_names or ()
    names = ", ".join(classes[:6]) + (" ..." if len(classes) > 6 else "")
    labels = f"{len(classes)} classes ({names})" if classes else "no labels"
    return f"{source.split}: {source.num_examples:,} examples, {labels}, in {source.location} [{source.fingerprint}]"
