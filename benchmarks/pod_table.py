"""What pre-training needs on pods, compiled with no pod: the white-box family and ViT-MAE, as Markdown.

    python benchmarks/pod_table.py                                   # minutes a row
    python benchmarks/pod_table.py --configs=imagenet_base --topologies=v5e:4x4 --batch=1024 --kernels=xla

Each row is one `traffic.py --json`. The step is the slowest of arithmetic, traffic across HBM and interconnect at
published peaks; a real one is longer. Hours are those of 800 epochs of ImageNet-1K at that step. Rows are kept in
--cache, so that a run that was stopped goes on; `--only-known` prints the rows that are there.
"""

import argparse
import json
import pathlib
import subprocess
import sys

FAMILY = ",".join(f"imagenet:{family}_mae_base" for family in ("crate_alpha", "tost", "cbsa"))
CONFIGS = f"imagenet_base,{FAMILY},vit_mae_base,imagenet_large,imagenet:crate_alpha_mae_large,imagenet_1b,vit_mae_large"
TOPOLOGIES = "v5e:16x16,v6e:8x8"
GIB = 2.0**30
STEPS_TIMES_BATCH = 800 * 1_281_167
_NO_PRODUCT_KERNEL = ("imagenet_1b",)  # a matrix of 2048 x 2048 and its gradient do not fit on the chip


def kernel_overrides(config, kernels):
    """The overrides that choose the kernels of a config; a ViT has none."""
    if config.startswith("vit"):
        return []
    chosen = [f"--config.model.attention_kernel={kernels}"]
    return chosen + ([] if config in _NO_PRODUCT_KERNEL else [f"--config.model.product_kernel={kernels}"])


def compiled(config, topology, batch, overrides):
    """The numbers of `traffic.py --json`, or its last line of complaint."""
    script = pathlib.Path(__file__).with_name("traffic.py")
    words = [sys.executable, str(script), f"--config={config}", f"--topology={topology}", "--json"]
    words += [*overrides] + ([f"--config.batch_size={batch}"] if batch else [])
    done = subprocess.run(words, capture_output=True, text=True)
    try:
        return json.loads(done.stdout)
    except ValueError:
        return {"error": done.stderr.strip().splitlines()[-1]}


def row(config, topology, found):
    """One line of the table."""
    if "error" in found:
        return f"| {config} | {topology} | {found['error']} | | | | | | |"
    memory = found["bytes_per_chip"]
    room = f"{memory['peak'] / GIB:.1f} of {memory['capacity'] / GIB:.1f}"
    mesh = " x ".join(str(size) for size in found["mesh"].values())
    if not found["fits"]:
        return f"| {config} | {topology} | {mesh} | {room}, does not fit | | | | | |"
    seconds = found["seconds_per_step"]
    crossing = found["hbm_crossing_bytes_per_step"]
    sent = sum(one["bytes"] for one in found["collectives"].values())
    return (
        f"| {config} | {topology} | {mesh} | {room} | {found['flops_per_step'] / 1e12:.2f} | "
        f"{crossing / GIB:.1f} ({found['hbm_bytes_per_step'] / GIB:.1f}) | {sent / GIB:.2f} | "
        f"{1e3 * seconds['at_least']:.1f}, {seconds['bound']} | {found['batch'] / seconds['at_least']:,.0f} | "
        f"{STEPS_TIMES_BATCH / found['batch'] * seconds['at_least'] / 3600:.1f} |"
    )


def main():
    """The command line; what it does not know is handed on as overrides of the config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", default=CONFIGS)
    parser.add_argument("--topologies", default=TOPOLOGIES)
    parser.add_argument("--batch", type=int, help="None: the config's")
    parser.add_argument("--kernels", default="pallas", help="of the white-box layers: pallas or xla")
    parser.add_argument("--cache", default="workdirs/pod_table.jsonl")
    parser.add_argument("--only-known", action="store_true", help="compiles nothing")
    arguments, overrides = parser.parse_known_args()
    cache = pathlib.Path(arguments.cache)
    cache.parent.mkdir(parents=True, exist_ok=True)
    known = {}
    for line in cache.read_text().splitlines() if cache.exists() else ():
        one = json.loads(line)
        known[tuple(one["key"])] = one["found"]
    print(
        "| config | topology | data x fsdp x tensor | HBM peak per chip, GiB | TFLOP per chip | across HBM (the "
        "compiler's count), GiB | collectives, GiB | step at least, ms | images/s | hours |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for config in arguments.configs.split(","):
        for topology in arguments.topologies.split(","):
            chosen = [*kernel_overrides(config, arguments.kernels), *overrides]
            key = (config, topology, str(arguments.batch), " ".join(chosen))
            if key not in known and not arguments.only_known:
                known[key] = compiled(config, topology, arguments.batch, chosen)
                with open(cache, "a") as file:
                    file.write(json.dumps({"key": key, "found": known[key]}) + "\n")
            if key in known:
                print(row(config, topology, known[key]), flush=True)


if __name__ == "__main__":
    main()
