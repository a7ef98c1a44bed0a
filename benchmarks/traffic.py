"""Where a step's memory traffic goes, from the program compiled for a pod that is not there, as Markdown.

    python benchmarks/traffic.py --config=imagenet_base --topology=v5e:4x4 --config.batch_size=1024
    python benchmarks/traffic.py --text=step.hlo                     # a text that --keep=step.hlo wrote before
    python benchmarks/traffic.py --config=imagenet_base --topology=v5e:4x4 --json

Two numbers a purpose: what the compiler's cost analysis counts, which is every operand and result wherever it lies and
copies onto the chip several times; and in brackets what crosses HBM. GiB of one chip; minutes to compile. --json prints
what `crate-jax compile --json` does, with traffic as it is read here in the place of its bound and of XLA's count.
"""

import argparse
import dataclasses
import json
import pathlib

from memory_traffic import by_purpose, memory_bytes

GIB = 2.0**30


def compiled_plan(config_name, topology_name, overrides):
    """(plan of a config's train step, training examples); see `planning.ahead_of_time`."""
    from crate_jax.planning.ahead_of_time import prepare_environment
    from crate_jax.planning.chips import find_topology

    topology = find_topology(topology_name)
    prepare_environment()
    from crate_jax.cli.compile import training_examples
    from crate_jax.config import load_config
    from crate_jax.planning.ahead_of_time import plan

    config = load_config(config_name, overrides)
    examples = training_examples(config)
    return plan(config, topology, examples), examples


def numbers_of(found, examples):
    """What `crate-jax compile --json` prints, with traffic read from the program's text, loops counted as they run."""
    from crate_jax.planning.report import as_numbers

    if found.fits:
        counted, once, crossing = memory_bytes(found.text)
        more = found.hbm_bytes * (counted / once if once else 1.0)
        found = dataclasses.replace(found, hbm_bytes=more, crossing_bytes=crossing)
    return as_numbers(found, examples / found.program.config.batch_size if examples else None)


def main():
    """The command line; `--config.a.b=VALUE` overrides a leaf of the config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="imagenet_base")
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--text", help="a compiled program's text; nothing is compiled")
    parser.add_argument("--keep", help="writes the text here")
    parser.add_argument("--json", action="store_true", help="numbers of the step instead of the table")
    arguments, words = parser.parse_known_args()
    overrides = [tuple(word.removeprefix("--config.").split("=", 1)) for word in words]
    if arguments.text:
        text = pathlib.Path(arguments.text).read_text()
    else:
        found, examples = compiled_plan(arguments.config, arguments.topology, overrides)
        text = found.text
        if arguments.json:
            print(json.dumps(numbers_of(found, examples), indent=2))
            return
    if arguments.keep:
        pathlib.Path(arguments.keep).write_text(text)
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
