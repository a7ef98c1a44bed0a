"""A network or a config, explained before it costs anything.

    crate-jax inspect --model=crate_mae_base           every parameter and what it is in the mathematics (U, D, E, V),
                                                       the count beside the published one, FLOPs
    crate-jax inspect --config=imagenet_base           the same, every setting, how parameters are sharded over the
                                                       mesh, and one batch as a picture (batch.png)

With --model, --config.model.X=VALUE changes the network.
"""

import argparse


def add_arguments(parser):
    """The flags of `crate-jax inspect`."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", help="a file, or the name of an installed config")
    which.add_argument("--model", help="crate_mae_base, vit_mae_base, crate_classifier_base, crate_base, ...")
    parser.add_argument("--out", help="folder for batch.png (with --config; default: here)")
    parser.add_argument(
        "--batch", action=argparse.BooleanOptionalAction, default=True, help="draw one batch (with --config)"
    )


def run(arguments):
    """Prints what there is to know."""
    from crate_jax.config import default_config, load_config, model_overrides, override
    from crate_jax.models.overview import parameter_rows, table_text
    from crate_jax.models.registry import create_model

    if arguments.config:
        config = load_config(arguments.config, arguments.overrides)
    else:
        pairs = [("model.name", arguments.model), *arguments.overrides]
        config = override(default_config(), pairs, source="--model")
    model = create_model(config.model.name, **model_overrides(config))
    rows = parameter_rows(model)
    if arguments.config:
        print_settings(config, model)
    print(first_line(config.model.name, model))
    print()
    print(table_text(rows, split_by(config) if arguments.config else None))
    print()
    print_counts(config, model, rows)
    if arguments.config and arguments.batch:
        draw_batch(config, model, arguments.out or ".")


def print_settings(config, model):
    """Every leaf with its value in force, range and meaning; * marks those that the config or command line gives."""
    from crate_jax.config import flatten, given
    from crate_jax.config_schema import LEAVES

    flat, said = flatten(config), given(config)
    width = max(map(len, flat))
    for name, leaf in LEAVES.items():
        allowed = f" {' | '.join(map(str, leaf.choices)) if leaf.choices else leaf.range}"
        value = in_force(model, name.removeprefix("model."), flat[name]) if name.startswith("model.") else flat[name]
        print(f"{'*' if name in said else ' '} {name:<{width}}  {value!s:<24}  {leaf.doc};{allowed}".rstrip("; "))
    print("  (* given by the config or the command line)\n")


def in_force(model, name, value):
    """The value of a network's setting: what is given, else what its name says."""
    if value is None:
        value = getattr(model, name, None)
    return getattr(value, "__name__", value)  # a dtype's own name


def split_by(config):
    """A function from a logical axis to the mesh axes that this config splits it over, as text."""
    from crate_jax.distributed.sharding import mesh_axes, rules_for

    rules = dict(rules_for(config.mesh))
    return lambda logical: "+".join(mesh_axes(rules.get(logical)))


def first_line(name, model):
    """The network in a line."""
    layers = f"{model.depth} layers"
    if hasattr(model, "decoder_depth"):
        inner = model.decoder_width or model.width
        layers += f" and {model.decoder_depth} of the decoder" + (f" ({inner} wide)" if inner != model.width else "")
    patch = f"{model.patch_size} x {model.patch_size}"
    size = model.image_size if isinstance(model.image_size, int) else " x ".join(map(str, model.image_size))
    return (
        f"{name}: {layers}, width {model.width}, {model.num_heads} heads of {model.width // model.num_heads}, "
        f"{model.num_patches} patches of {patch} pixels in an image of {size}"
    )


def print_counts(config, model, rows):
    """Numbers by block, beside the official class's and the published count, and the arithmetic."""
    import math

    from crate_jax.interop.export import initial_tensors
    from crate_jax.interop.network import has_official, links_of, parameter_shapes
    from crate_jax.models.overview import PUBLISHED, blocks_of
    from crate_jax.models.registry import create_model, num_parameters
    from crate_jax.training.arithmetic import config_flops, mask_ratios

    name, count = config.model.name, num_parameters(model)
    for block, numbers in blocks_of(rows).items():
        print(f"{block:<12}{numbers:>14,}  {numbers / count:6.1%}")
    print(f"{'trained here':<12}{count:>14,}")
    named = parameter_shapes(model) == parameter_shapes(create_model(name))  # else nobody else has a count of it
    if named and has_official(model):
        held = parameter_shapes(model)
        ours = {link.official for link in links_of(model) if link.path in held}
        spare = {key: math.prod(shape) for key, (shape, _) in initial_tensors(model).items() if key not in ours}
        names = {"pos_embed": "frozen table", "decoder_pos_embed": "frozen table"}
        for key, numbers in spare.items():
            print(f"{'  +':<12}{numbers:>14,}  {key}: {names.get(key, 'never used by the official code')}")
        print(f"{'official':<12}{count + sum(spare.values()):>14,}")
    if named and name in PUBLISHED:
        print(f"{'published':<12}{PUBLISHED[name]:>12} M")
    training, forward = (config_flops(config, model, training=training) / 1e9 for training in (True, False))
    said = []
    if hasattr(model, "mask_mode"):
        ratios = ", ".join(f"{ratio:.3g}" for ratio in mask_ratios(config))
        said = [f"mask_mode={model.mask_mode}", *([f"mean over the mask ratios {ratios}"] if ratios else [])]
    elif config.finetune.head_only:
        said = ["the head alone is trained"]
    print(f"\n{forward:.3g} GFLOP per image forward, {training:.3g} in training", end="")
    print(f" ({', '.join([*said, 'multiply-adds count twice'])})")


def draw_batch(config, model, out):
    """One training batch as the network sees it: the images, and what the encoder is left with.

    Masks are of the config's kind; of a range of ratios a row shows the least, another the greatest.
    """
    import jax
    import numpy as np
    from etils import epath

    from crate_jax.data.picture import png
    from crate_jax.data.pipeline import train_batches
    from crate_jax.data.preview import tiled
    from crate_jax.errors import UserError
    from crate_jax.operators.masking import example_masks
    from crate_jax.operators.patches import patchify, unpatchify
    from crate_jax.storage import write_file

    try:
        batches = train_batches(config, model.image_size, model.channels, None)
        images = np.asarray(next(batches)["image"])[:8]
        batches.close()
    except UserError as error:  # a config can be read where its data are not
        print(f"no picture of a batch: {error}")
        return
    rows, key, index_B = [images], jax.random.key(config.seed), np.arange(len(images))
    index_B = index_B if config.masking.per == "image" else 0 * index_B
    for ratio in config.masking.ratio or (model.mask_ratio,) if hasattr(model, "mask_ratio") else ():
        mask_BxN = np.asarray(example_masks(key, index_B, model.grid, ratio, kind=config.masking.kind))
        patches = np.where(mask_BxN[..., None] > 0, np.uint8(128), patchify(images, model.patch_size))
        rows.append(unpatchify(patches, model.patch_size, grid=model.grid))
    grid, zoom = tiled(np.stack(rows)), max(1, 96 // max(images.shape[1:3]))
    path = epath.Path(out) / "batch.png"
    write_file(path, png(grid.repeat(zoom, 0).repeat(zoom, 1).squeeze()))
    print(f"\none batch's first images, and what is left of them: {path}")
