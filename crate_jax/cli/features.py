"""Writes features and labels of a split, or of your own pictures, to an .npz file, for scikit-learn, FAISS or others.

    crate-jax features --workdir=workdirs/quickstart --split=train --out=train.npz --features=cells@encoder_01
    crate-jax features --workdir=workdirs/quickstart --images=FOLDER --out=mine.npz

The file holds features_NxG (float32), labels_N and class_names, of pictures features_NxG and names_N. Without
--features those that `probe` chose are taken, else mean@last. Beside it lie train.npz.json (which features, of what)
and train.npz.png: the first two principal components, by class.
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.cli.arguments import add_subject_arguments

    add_subject_arguments(parser, out="the .npz file to write")
    parser.add_argument("--split", help="of the data set")
    parser.add_argument("--images", help="pictures in place of a split: files, or a folder with its sub-folders")
    parser.add_argument("--features", help="POOLING@LAYER, such as cells@encoder_01")


def run(arguments):
    """The command."""
    import io

    import jax
    import numpy as np
    from etils import epath

    from crate_jax.cli.arguments import chosen_by
    from crate_jax.distributed.compilation_cache import keep_compiled
    from crate_jax.errors import UserError
    from crate_jax.evaluation.features import parse_features
    from crate_jax.evaluation.scatter import scatter_figure
    from crate_jax.evaluation.subject import resolve
    from crate_jax.figure_files import save_figure
    from crate_jax.storage import write_file, write_json

    if not arguments.out:
        raise UserError("--out=FILE.npz is missing.")
    file = epath.Path(arguments.out)
    if file.suffix != ".npz":
        raise UserError(f"--out={file}: name the file to write, such as features.npz.")
    if bool(arguments.split) == bool(arguments.images):
        raise UserError("give either --split=S or --images=FILES.")
    arguments.out = None if arguments.workdir else file.parent
    subject = resolve(arguments)
    if arguments.workdir:
        keep_compiled(arguments.workdir)
    features, features_from = subject.features_or(arguments.features, lambda: "mean@last", "default")
    parse_features(features, subject.model.depth)
    arrays, labels_N, called, stamp = (
        of_pictures(subject, features, arguments.images)
        if arguments.images
        else of_split(subject, features, arguments.split)
    )
    features_NxG = arrays["features_NxG"]
    if jax.process_index():
        return
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_file(file, buffer.getvalue())
    results = {"features": features, "features_from": features_from, "split": arguments.split}
    results |= {"examples": len(features_NxG), "length": features_NxG.shape[1], "file": file.name} | stamp
    write_json(f"{file}.json", results)
    caption = f"{features} of {stamp['data']['name']}, {stamp['data']['split'] or arguments.images}"
    save_figure(scatter_figure(features_NxG, labels_N, called, caption), epath.Path(f"{file}.png"))
    count, length = features_NxG.shape
    print(f"{count} x {length} features {features} ({chosen_by(features_from)}) to {file}")


def of_split(subject, features, split):
    """(arrays of the .npz, labels, name of a label, what it is of)."""
    import numpy as np

    from crate_jax.evaluation.feature_store import split_rows

    found, labels_N, _ = split_rows(subject, split, (features,))
    arrays = {"features_NxG": np.asarray(found[features], np.float32), "labels_N": labels_N}
    names = subject.open_split(split).class_names
    arrays |= {"class_names": np.array(names)} if names else {}
    return arrays, labels_N, subject.class_names(split), subject.stamp(split, len(labels_N))


def of_pictures(subject, features, pictures):
    """The same of a person's own pictures, which have names and no labels."""
    import numpy as np

    from crate_jax.data.own_pictures import picture_data
    from crate_jax.evaluation.feature_store import image_features

    images, names = subject.read_pictures(pictures)
    arrays = {"features_NxG": image_features(subject, images, features), "names_N": np.array(names)}
    return arrays, np.full(len(names), -1), str, subject.stamp(data=picture_data(images))
