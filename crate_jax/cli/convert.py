"""Checkpoints in and out, bit by bit.

    crate-jax convert --to=flax mae_crate_base.pth out/       then: probe, analyze, ... --checkpoint=out/
    crate-jax convert --to=torch workdirs/run run.pth         loads with strict=True in the official class
    crate-jax convert --to=safetensors out/ run.safetensors   the same tensors, without PyTorch

IN is an official file (CRATE-MAE, the supervised CRATE, Meta's MAE, timm's ViT; .pth in any wrapping, or .safetensors),
a folder that --to=flax wrote, or the workdir of a run. What no tensor holds follows from the width where an official
network has it; else, or for another lambda, say --num_heads=K, --lambda_=L, or any --config.model.X=VALUE.
Nothing in a file is ever run.
"""

TARGETS = ("flax", "torch", "safetensors")


def add_arguments(parser):
    """The flags of `crate-jax convert`."""
    from crate_jax.cli.arguments import real, whole

    parser.add_argument("--to", required=True, choices=TARGETS, help="our own folder, PyTorch's .pth, or .safetensors")
    parser.add_argument("--num_heads", type=whole(1), help="K, if the width is not an official one")
    parser.add_argument("--lambda_", type=real(0, 1e6), help="sparsity weight, if it is not the official default")
    parser.add_argument("source", metavar="IN", help="a file, a converted folder, or a workdir")
    parser.add_argument("target", metavar="OUT", help="a folder for --to=flax, else a file")


def model_settings(arguments):
    """The network's attributes that the command line gives.

    Raises:
        UserError: a setting that is not of the network.
    """
    from crate_jax.config import default_config, flatten, override
    from crate_jax.errors import UserError

    pairs = [(f"model.{name}", getattr(arguments, name)) for name in ("num_heads", "lambda_")]
    pairs = [(name, value) for name, value in pairs if value is not None] + list(arguments.overrides)
    for name, _ in pairs:
        if not name.startswith("model.") or name == "model.name":
            raise UserError(f"--config.{name}: convert takes settings of the network only, such as --config.model.eta.")
    flat = flatten(override(default_config(), pairs))
    return {name.removeprefix("model."): flat[name] for name, _ in pairs if flat[name] is not None}


def open_source(path, settings):
    """The checkpoint to convert: a file's, a folder's, or a run's last."""
    from etils import epath

    from crate_jax.interop.checkpoint_file import MODEL, open_checkpoint
    from crate_jax.storage import is_remote

    is_remote(path)  # or an address where no files are, which is refused
    folder = epath.Path(path)
    if (folder / MODEL).exists() or not (folder / "config.json").exists():
        return open_checkpoint(path, settings)
    from crate_jax.errors import UserError
    from crate_jax.evaluation.subject import in_memory
    from crate_jax.training.run_folder import load_step, read_config

    if settings:
        raise UserError(
            f"{path} is a run, whose config.json says everything of its network; leave {min(settings)} out."
        )
    return in_memory(*load_step(path)[1], read_config(path))


def run(arguments):
    """Converts, and says what it converted."""
    import math
    import os

    from crate_jax.errors import UserError
    from crate_jax.interop.checkpoint_file import write_folder
    from crate_jax.interop.export import write_official
    from crate_jax.interop.tensor_files import local_target

    source, target = arguments.source, local_target(arguments.target)
    if target.exists() and os.path.exists(source) and target.samefile(source):
        raise UserError(f"{target} is what is to be converted; give another place for the result.")
    checkpoint = open_source(source, model_settings(arguments))
    if arguments.to == "flax":
        write_folder(checkpoint, target)
        number = sum(math.prod(checkpoint.shapes[path]) for path in checkpoint.paths)
        rest = f", {len(checkpoint.spare)} official tensors carried along" if checkpoint.spare else ""
        print(f"{checkpoint.name}: {number:,} parameters in {target}{rest}")
        return
    shapes = write_official(checkpoint, target, arguments.to)
    number = sum(math.prod(shape) for shape in shapes.values())
    print(f"{checkpoint.name}: {len(shapes)} official tensors, {number:,} numbers, in {target}")
