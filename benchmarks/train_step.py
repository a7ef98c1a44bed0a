"""A full pre-training step on this machine, beside a PyTorch network of the same specification.

    python benchmarks/train_step.py [--cases=quickstart,tiny,small,base] [--batches=8,16] [--masks=token,drop]
                                    [--rounds=7] [--steps=1] [--compile] [--official=CHECKOUT] [--processor] [--small]
                                    [--dtype=float32] [--kernels=xla,cudnn] [--out=FILE.json]
    python benchmarks/train_step.py --cases=base --batches=128 --dtype=bfloat16 --compile --kernels=xla,cudnn --steps=20

Forward, backward and AdamW, images of 224 pixels (`quickstart`: that config, but for its Muon); the very step of
`crate-jax pretrain`. On a GPU, if both frameworks see one, else on the CPU. PyTorch (extra torch) has fused attention,
fused AdamW and ISTA in two products, and autocast for bfloat16; eager, and with --compile also `torch.compile`.
--kernels adds our step with each of these attention kernels; `ours` itself has `auto`. With --official the official
code runs as well (a clone of Ma-Lab-Berkeley/CRATE; needs einops; it keeps removed patches, so `token` only), with the
same AdamW for all of its parameters. Each contender has a process of its own, since one's idle threads and memory slow
the other down. All begin with the same parameters; that they compute the same loss on the same mask is checked first.
Then they take turns, 1 + --steps steps each, of which all but the first are measured together: in a training no step
follows a pause, in which a virtual machine's host may have taken away what the process left idle. Medians are printed.
All contenders inherit this command's environment, so a setting of the C library's memory (`GLIBC_TUNABLES=...`) is
measured by setting it for one run and not for the next. FLOP are counted by formula (`models.flops`); "of peak" is
their rate over that of this machine's best matrix product, the better of the two frameworks. --small is a network of
seconds, to see that all this works.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import statistics
import sys
import time

SMALL = {"width": 48, "num_heads": 3, "depth": 2, "decoder_depth": 2, "image_size": 32, "patch_size": 8}


def settings(case):
    """The config of a case."""
    from crate_jax.config import default_config, load_config

    if case["size"] == "quickstart":
        return load_config("quickstart", [("optimizer.name", "adamw")])
    config = default_config()
    config.total_steps, config.batch_size = 1000, case["batch"]
    config.model.name, config.model.mask_mode = f"crate_mae_{case['size']}", case["mask"]
    config.model.dtype = case.get("dtype")
    for name, value in (SMALL if case["small"] else {}).items():
        config.model[name] = value
    return config


def random_batch(model, batch):
    """Pixels at random."""
    import numpy as np

    size = (batch, model.image_size, model.image_size, model.channels)
    return {
        "image": np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8),
        "label": np.zeros(batch, "i4"),
        "index": np.arange(batch, dtype="i4"),
        "epoch": np.zeros(batch, "i4"),
    }


def our_step(program):
    """A function that takes one step; returns the loss, which may still be computed."""
    import jax

    from crate_jax.distributed.sharding import batch_sharding

    state = program.new_state()
    seed = (program.seed,) if hasattr(program, "seed") else ()  # older commits have it as a constant
    data = jax.device_put(random_batch(program.model, program.config.batch_size), batch_sharding(program.mesh))

    def step():
        nonlocal state
        state, metrics = program.step(state, data, *seed)
        return metrics["loss"]

    return step


def first_mask(program):
    """The mask that our step 0 draws."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from crate_jax.operators.masking import example_masks

    model, config = program.model, program.config
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    return np.array(example_masks(key, jnp.arange(config.batch_size), model.grid, model.mask_ratio), "f4")


def torch_training(network, optimizer, clip_norm, loss):
    """A function that takes one step of PyTorch on what `loss()` gives; returns its value, as `our_step` does."""
    import torch

    def step():
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
        optimizer.step()
        return value.detach()

    return step


def torch_step(program, *, compile_):
    """The same for PyTorch; its first step takes the mask of our first."""
    import flax
    import jax
    import torch
    from torch_crate_mae import TorchCrateMae

    from crate_jax.interop.network import by_layer
    from crate_jax.operators.masking import num_visible
    from crate_jax.training.optimizer import decay_mask

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    model, settings_, objective = program.model, program.config.optimizer, program.objective
    params = jax.device_get(program.new_state().params)
    decayed = flax.traverse_util.flatten_dict(decay_mask(params), sep="/")
    params = by_layer(params)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = TorchCrateMae(model, params, objective.mean, objective.std).to(device)
    groups = [
        {
            "params": [network.p[name] for name in params if decayed[re.sub("_[0-9]+/", "/", name)] == decays],
            "weight_decay": settings_.weight_decay if decays else 0.0,
        }
        for decays in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, settings_.learning_rate, (settings_.b1, settings_.b2), fused=True)
    run = torch.compile(network, fullgraph=True) if compile_ else network
    pixels = torch.from_numpy(random_batch(model, program.config.batch_size)["image"]).to(device)
    kept = num_visible(model.num_patches, model.mask_ratio)
    masks = [torch.from_numpy(first_mask(program)).to(device)]
    half = torch.autocast(device, torch.bfloat16, enabled=program.config.model.dtype == "bfloat16")

    def loss():
        if masks:
            mask = masks.pop()
        else:
            noise = torch.rand(len(pixels), model.num_patches, device=device)
            mask = (noise.argsort(1).argsort(1) >= kept).float()
        with half:
            return run(pixels, mask)

    return torch_training(network, optimizer, settings_.clip_norm, loss)


def official_step(program, checkout):
    """The same for the official network, with our initial parameters."""
    import jax
    import numpy as np
    import torch
    from parity import SIZES, fixed_noise, import_official

    from crate_jax.interop.export import official_arrays

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    model, settings_, objective = program.model, program.config.optimizer, program.objective
    size = next(size for size, (width, *_) in SIZES.items() if width == model.width)
    network = getattr(import_official(checkout)[1], f"mae_crate_{size}")()
    params = jax.device_get(program.new_state().params)
    arrays = {name: torch.from_numpy(np.array(array)) for name, array in official_arrays(model, params).items()}
    network.load_state_dict(arrays, strict=False)  # it has tables of positions, and a decoder_embed that it never uses
    optimizer = torch.optim.AdamW(
        network.parameters(), settings_.learning_rate, (settings_.b1, settings_.b2),
        weight_decay=settings_.weight_decay, fused=True,
    )  # fmt: skip
    pixels = torch.from_numpy(random_batch(model, program.config.batch_size)["image"])
    mean, std = (torch.tensor(values)[:, None, None] * 255 for values in (objective.mean, objective.std))
    masks = [first_mask(program)]

    def loss():
        images = (pixels.permute(0, 3, 1, 2).float() - mean) / std
        with fixed_noise(masks.pop()) if masks else contextlib.nullcontext():
            return network(images, model.mask_ratio)[0]

    return torch_training(network, optimizer, settings_.clip_norm, loss)


def contender(name, case, pipe):
    """A process: builds its step, takes as many as it is asked, and says (loss, seconds of a step but the first)."""
    clock = time.process_time if case.get("processor") else time.perf_counter
    from crate_jax.distributed.host_cores import use_all_cores

    config = settings(case)
    name, _, kernel = name.partition(" ")
    if name == "ours":
        config.model.attention_kernel = kernel or config.model.attention_kernel
        use_all_cores(config)
    from crate_jax.models.flops import flops_per_image
    from crate_jax.training.program import build_program

    program = build_program(config, 1000)
    if name == "official":
        step = official_step(program, case["official"])
    else:
        step = our_step(program) if name == "ours" else torch_step(program, compile_=name == "torch.compile")
    pipe.send(config.batch_size * flops_per_image(program.model))
    while count := pipe.recv():
        begin = clock()
        loss = float(step())
        if count > 1:
            begin = clock()
            for _ in range(count - 1):
                loss = step()
            loss = float(loss)
        pipe.send((loss, (clock() - begin) / max(1, count - 1)))


def product_peak(small, dtype, pipe):
    """A process: says the FLOP/s of the best matrix product of either framework, and the device."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    gpu = torch.cuda.is_available()
    if gpu != (jax.default_backend() == "gpu"):
        raise SystemExit("only one framework sees a GPU; set CUDA_VISIBLE_DEVICES=-1 to measure the CPU")
    size = 256 if small else 8192 if gpu else 2048
    a = np.random.default_rng(0).normal(size=(size, size)).astype("f4")
    ours, product = jnp.asarray(a, dtype), jax.jit(jnp.matmul)
    theirs = torch.from_numpy(a).to("cuda" if gpu else "cpu", getattr(torch, dtype))

    def torch_product():
        theirs @ theirs
        if gpu:
            torch.cuda.synchronize()

    best = float("inf")
    for _ in range(7):
        for run in (lambda: product(ours, ours).block_until_ready(), torch_product):
            begin = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - begin)
    pipe.send((2 * size**3 / best, jax.devices()[0].device_kind))


def start(target, *arguments):
    """A new process and the pipe to it."""
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()  # so that a process that dies is an end of file and not a wait
    return process, mine


def take_turns(running, rounds, steps=1):
    """Steps of several contenders in turn; ends them.

    Args:
        running: name to what `start` returned.
        rounds: that are measured, after the first step.
        steps: of a contender in a round, after one that does not count.

    Returns:
        (FLOP of a step by name, loss of the first step by name, seconds by name of each round).
    """
    flops = {name: pipe.recv() for name, (_, pipe) in running.items()}

    def turn(count):
        found = {}
        for name, (_, pipe) in running.items():
            pipe.send(count)
            found[name] = pipe.recv()
        return found

    for _, pipe in running.values():  # all compile at once; nothing is timed
        pipe.send(1)
    first = {name: pipe.recv() for name, (_, pipe) in running.items()}
    loss = {name: value for name, (value, _) in first.items()}
    seconds = [{name: one for name, (_, one) in turn(1 + steps).items()} for _ in range(rounds)]
    for process, pipe in running.values():
        pipe.send(0)
        process.join()
    return flops, loss, seconds


def measure(case, names, rounds):
    """Seconds of each contender's steps, in turn.

    Returns:
        The case, with `seconds` (name to list), `flops` of a step, `loss` of the first step by name.
    """
    running = {name: start(contender, name, case) for name in names}
    flops, loss, turns = take_turns(running, rounds, case.get("steps", 1))
    tolerance = 1e-2 if case["dtype"] == "bfloat16" else 1e-4
    if any(abs(value / loss["ours"] - 1) > tolerance for value in loss.values()):
        raise SystemExit(f"these should be one number: {loss}")
    seconds = {name: [turn[name] for turn in turns] for name in names}
    return {**case, "seconds": seconds, "flops": flops["ours"], "loss": loss}


def main():
    """The benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("cases", "quickstart,tiny,small,base"), ("batches", "8,16"), ("masks", "token,drop")):
        parser.add_argument(f"--{name}", default=default, help="some of them, by commas")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1, help="steps of a round that are measured together")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--kernels", default="", help="attention kernels of further steps of ours, by commas")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well; needs a C++ compiler")
    parser.add_argument("--official", help="a clone of Ma-Lab-Berkeley/CRATE: its code as well")
    parser.add_argument("--processor", action="store_true", help="processor seconds instead of wall seconds")
    parser.add_argument("--small", action="store_true", help="a network of seconds instead")
    parser.add_argument("--out", help="numbers as JSON")
    arguments = parser.parse_args()
    if arguments.rounds < 2 or (arguments.official and (arguments.small or arguments.dtype != "float32")):
        parser.error("--rounds is at least 2; --official has the official sizes and float32")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share a GPU
    peak, device = start(product_peak, arguments.small, arguments.dtype)[1].recv()
    if device != "cpu" and (arguments.official or arguments.processor):
        parser.error("--official and --processor measure the CPU; set CUDA_VISIBLE_DEVICES=-1")
    print(f"{device}: best matrix product {peak / 1e9:.0f} GFLOP/s; {arguments.dtype}, medians of {arguments.rounds}")
    print("case        mask   batch   who              ms/step   ours/theirs (quartiles)   GFLOP/s   of peak")
    cases = []
    for size in arguments.cases.split(","):
        grid = [(mask, int(batch)) for mask in arguments.masks.split(",") for batch in arguments.batches.split(",")]
        for mask, batch in [("drop", 32)] if size == "quickstart" else grid:
            case = {"size": size, "mask": mask, "batch": batch, "small": arguments.small}
            case |= {"processor": arguments.processor, "official": arguments.official}
            case |= {"dtype": arguments.dtype, "steps": arguments.steps}
            official = ["official"] if arguments.official and mask == "token" else []
            kernels = [f"ours {kernel}" for kernel in arguments.kernels.split(",") if kernel]
            names = ["ours", *kernels, "torch", *(["torch.compile"] if arguments.compile else []), *official]
            found = measure(case, names, arguments.rounds * (10 if size == "quickstart" else 1))
            cases.append(found)
            median = {name: statistics.median(seconds) for name, seconds in found["seconds"].items()}
            for name in names:
                rate = found["flops"] / median[name]
                ratios = [ours / one for ours, one in zip(*map(found["seconds"].get, ("ours", name)), strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
                print(
                    f"{size:<11} {mask:<6} {batch:5}   {name:<13} {1000 * median[name]:10.1f}   "
                    f"{middle:11.2f} ({low:.2f} to {high:.2f})   {rate / 1e9:7.1f}   {100 * rate / peak:5.0f} %",
                    flush=True,
                )
    if arguments.out:
        with open(arguments.out, "w") as file:
            machine = {"peak_flops": peak, "device": device, "cores": len(os.sched_getaffinity(0))}
            json.dump({**machine, "cases": cases}, file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
