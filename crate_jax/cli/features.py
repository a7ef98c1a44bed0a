"""Writes features and labels of a split to an .npz file, for scikit-learn, FAISS or whatever else.

    crate-jax features --workdir=workdirs/quickstart --split=train --out=train.npz --features=cells@2

The file holds features_NxG (float32) and labels_N. Beside it lie train.npz.json (which features, of what) and
train.npz.png: the first two principal components, by class.
"""


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.evaluation.subject_arguments import add_subject_arguments

    add_subject_arguments(parser, out="the .npz file to write")
    parser.add_argument("--split", required=True, help="of the data set")
    parser.add_argument("--features", default="mean@last", help="POOLING@LAYER, such as cells@2")


def run(arguments):
    """The command."""
    import pathlib

    import numpy as np
    from etils import epath

    from crate_jax.data.sources import open_source
    from crate_jax.distributed.compilation_cache import keep_compiled
    from crate_jax.errors import UserError
    from crate_jax.evaluation.feature_store import split_features
    from crate_jax.evaluation.figures import save_figure
    from crate_jax.evaluation.pictures import class_namer
    from crate_jax.evaluation.scatter_figure import scatter_figure
    from crate_jax.evaluation.subject import resolve

    if not arguments.out:
        raise UserError("--out=FILE.npz is missing.")
    file = pathlib.Path(arguments.out)
    if file.is_dir() or file.suffix != ".npz":
        raise UserError(f"--out={file}: name the file to write, such as features.npz.")
    arguments.out = file.parent
    subject = resolve(arguments)
    if arguments.workdir:
        keep_compiled(arguments.workdir)
    found, labels_N = split_features(subject, arguments.split, (arguments.features,))
    features_NxG = np.asarray(found[arguments.features], np.float32)
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "wb") as stream:  # np.savez would append .npz to another name
        np.savez(stream, features_NxG=features_NxG, labels_N=labels_N)
    results = {"features": arguments.features, "split": arguments.split, "examples": len(labels_N)}
    results |= {"length": features_NxG.shape[1], "file": file.name, "of": subject.source}
    subject.write(f"{file.name}.json", results)
    settings = subject.config.data
    called = class_namer(open_source(settings.name, arguments.split, settings.data_dir))
    caption = f"{arguments.features} of {settings.name}, {arguments.split}"
    save_figure(scatter_figure(features_NxG, labels_N, called, caption), epath.Path(f"{file}.png"))
    print(f"{features_NxG.shape[0]} x {features_NxG.shape[1]} features {arguments.features} to {file}")
