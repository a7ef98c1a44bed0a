"""The flags that name what is evaluated; no heavy import, so that --help is quick."""


def add_subject_arguments(parser, out="folder of the results; needed with --checkpoint"):
    """`--workdir=D`, or `--checkpoint=P --config=F --out=DIR`."""
    parser.add_argument("--workdir", help="of a pretrain or finetune; results are written there")
    parser.add_argument("--checkpoint", help="instead of --workdir: a .pth, .safetensors, or what `convert` wrote")
    parser.add_argument("--config", help="with --checkpoint: file or name of the config that says the data set")
    parser.add_argument("--out", help=out)
