"""Writes the encoder as a program for serving: pixels in, features out, without crate_jax.

    crate-jax export --workdir=workdirs/quickstart --to=stablehlo --out=encoder.stablehlo [--features=mean@last]
    crate-jax export --checkpoint=crate_base.pth --config=imagenet_base --to=savedmodel --out=encoder

It takes uint8 images at the network's own size, any number of them, on CPU, GPU or TPU; normalisation is included. To
run a StableHLO file: jax.export.deserialize(bytearray(open("encoder.stablehlo", "rb").read())).call(images). A
SavedModel is a folder for TensorFlow (extra `tensorflow`), which must be of jax's age: 2.21 runs what jax 0.11 writes,
not what jax 0.12 does. ONNX is a file for onnxruntime, computed in float32; it takes the extra `onnx` and
`pip install --no-deps jax2onnx`, since what that requires would replace Orbax by an older one. OUT.json says what goes
in and comes out. Without --features those that `probe` chose are taken, else mean@last.
"""

FORMS = ("stablehlo", "savedmodel", "onnx")


def add_arguments(parser):
    """Flags; `--config.a.b=VALUE` overrides any leaf of the config."""
    from crate_jax.cli.arguments import add_subject_arguments

    add_subject_arguments(parser, out="the file or folder to write")
    parser.add_argument("--to", required=True, choices=FORMS, help="the form of the program")
    parser.add_argument("--features", help="POOLING@LAYER, such as cells@encoder_01")


def run(arguments):
    """The command."""
    from etils import epath

    from crate_jax.cli.arguments import chosen_by
    from crate_jax.errors import UserError
    from crate_jax.evaluation.export import export_encoder
    from crate_jax.evaluation.subject import resolve

    if not arguments.out:
        raise UserError("--out=FILE is missing, such as --out=encoder.stablehlo.")
    file = epath.Path(arguments.out)
    if file.is_file() and arguments.to == "savedmodel":
        raise UserError(f"--out={file} is a file; a SavedModel is a folder, name a new one.")
    arguments.out = None if arguments.workdir else str(file.parent)
    subject = resolve(arguments)
    features, features_from = subject.features_or(arguments.features, lambda: "mean@last", "default")
    length = export_encoder(subject, features, file, arguments.to, features_from=features_from)
    print(f"{features} ({chosen_by(features_from)}), {length} numbers per image: {file}")
