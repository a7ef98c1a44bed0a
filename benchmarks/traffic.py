"""Where a step's memory traffic goes, from the program compiled for a pod that is not there, as Markdown.

    python benchmarks/traffic.py --config=imagenet_base --topology=v5e:4x4 --config.batch_size=1024
    python benchmarks/traffic.py --text=step.hlo                     # a text that --keep=step.hlo wrote before

Two numbers a purpose: what the compiler's cost analysis counts, which is every operand and result wherever it lies and
copies onto the chip several times; and in brackets what crosses HBM. GiB of one chip; minutes to compile.
"""

import argparse
import pathlib

GIB = 2.0**30


def compiled_text(config_name, topology_name, overrides):
    """The optimised program of a config's train step."""
    from crate_jax.planning.ahead_of_time import prepare_environment
    from crate_jax.planning.chips import find_topology

    topology = find_topology(topology_name)
    prepare_environment()
    from crate_jax.cli.compile import training_examples
    from crate_jax.config import load_config
    from crate_jax.planning.ahead_of_time import plan

    config = load_config(config_name, overrides)
    return plan(config, topology, training_examples(config)).text


def main():
    """The command line; `--config.a.b=VALUE` overrides a leaf of the config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="imagenet_base")
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--text", help="a compiled program's text; nothing is compiled")
    parser.add_argument("--keep", help="writes the text here")
    arguments, words = parser.parse_known_args()
    overrides = [tuple(word.removeprefix("--config.").split("=", 1)) for word in words]
    if arguments.text:
        text = pathlib.Path(arguments.text).read_text()
    else:
        text = compiled_text(arguments.config, arguments.topology, overrides)
    if arguments.keep:
        pathlib.Path(arguments.keep).write_text(text)
    from crate_jax.planning.traffic import by_purpose

    table = by_purpose(text)
    total = [[sum(pairs[way][kind] for pairs in table.values()) for kind in range(2)] for way in range(2)]
    print("| | forward and the rest | backward |")
    print("|---|---|---|")
    for purpose, pairs in [*table.items(), ("all", total)]:
        if not any(map(any, pairs)):
            continue
        cells = " | ".join(f"{counted / GIB:.2f} ({crossing / GIB:.2f})" for counted, crossing in pairs)
        print(f"| {purpose} | {cells} |")


if __name__ == "__main__":
    main()
