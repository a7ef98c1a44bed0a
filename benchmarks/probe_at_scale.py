"""How much host memory and time does a probe of a million rows of features take?

    taskset -c 0 python benchmarks/probe_at_scale.py --rows=100000 --classes=100                # minutes
    taskset -c 0 python benchmarks/probe_at_scale.py --part=ours --newton_steps=1 --products=1  # ImageNet's shape, cut

Synthetic features (class means plus noise; a row holds 0.2 to 1.8 of its class's mean, so that some are hard) in a
memory-mapped float16 file, as `evaluation.feature_store` keeps large ones; 1,281,167 x 768 take 1.97 GB of disk.
Each part is a process of its own:

ours    the solver's protocol: C chosen on held-out examples among 20,000, the fit on all rows, the test
mae     MAE's head by its objective and optimizer (LARS, batches of 16,384); the command streams images through the
        encoder instead and stores no features
knn     20 nearest neighbours of the test rows

Peak memory is `ru_maxrss`, in which pages of the mapped file count that the kernel may drop at any time; a thread reads
the anonymous part from /proc/self/status 50 times a second (Linux only). A cut in the work (--newton_steps, --products,
--epochs, --queries) does not change the sizes of arrays, but for --queries, and is stated in the output.
"""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

CHUNK = 16384  # rows written at once
SIGNAL = 8.0  # length of a class's mean, in standard deviations of the noise
PERIOD = 0.02  # seconds between readings of memory
GIB = 2**30


def write_rows(path, rows, arguments, seed):
    """Writes features_NxG in float16 and their labels, chunk by chunk."""
    classes, width = arguments.classes, arguments.width
    mean_KxG = np.random.default_rng(0).normal(size=(classes, width)).astype(np.float32) * SIGNAL / width**0.5
    mapped = np.lib.format.open_memmap(path, "w+", np.float16, (rows, width))
    label_N = np.random.default_rng([seed, 0]).integers(classes, size=rows)
    for first in range(0, rows, CHUNK):
        label_M = label_N[first : first + CHUNK]
        random = np.random.default_rng([seed, 1, first])
        share_Mx1 = random.uniform(0.2, 1.8, (len(label_M), 1)).astype(np.float32)
        noise_MxG = random.standard_normal((len(label_M), width), np.float32)
        mapped[first : first + CHUNK] = share_Mx1 * mean_KxG[label_M] + noise_MxG
    mapped.flush()
    np.save(labels_of(path), label_N)


def labels_of(path):
    """The file of the labels beside the features."""
    return path.with_name(f"labels-{path.name}")


def read_rows(path):
    """(memory-mapped features_NxG, label_N)."""
    return np.load(path, mmap_mode="r"), np.load(labels_of(path))


class Memory(threading.Thread):
    """Peaks of this process's resident and anonymous memory between calls of `peaks`, in bytes."""

    def __init__(self):
        super().__init__(daemon=True)
        self._highest_2 = [0, 0]

    def run(self):
        while True:
            time.sleep(PERIOD)
            self._highest_2 = [max(pair) for pair in zip(self._highest_2, self._now(), strict=True)]

    def _now(self):
        sizes = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
        return [int(sizes[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon")]

    def peaks(self):
        """(resident, anonymous) since the last call."""
        found, self._highest_2 = self._highest_2, self._now()
        return found


def run_part(arguments, folder):
    """Runs one part in this process, and prints one JSON line per phase."""
    train, test = (read_rows(folder / name) for name in ("train.npy", "test.npy"))
    memory = Memory()
    memory.start()

    @contextlib.contextmanager
    def phase(name):
        found, wall, processor = {"phase": f"{arguments.child}: {name}"}, time.perf_counter(), time.process_time()
        memory.peaks()
        yield found
        found |= {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
        found["resident"], found["anonymous"] = memory.peaks()
        found["maxrss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(found), flush=True)

    PARTS[arguments.child](arguments, *train, *test, phase)


def ours(arguments, train_NxG, train_N, test_MxG, test_M, phase):
    """As `evaluation.probe.probe_one` does, for one name of features."""
    from crate_jax.evaluation import newton, selection, solver
    from crate_jax.evaluation.feature_store import sample

    part, C = sample(len(train_N), selection.CHOSEN_ON), arguments.C
    if C is None:
        with phase("choice of C") as found:
            few = {"features": np.asarray(train_NxG[part], np.float32)}
            chosen = selection.choose(few, train_N[part], arguments.classes)
            found["accuracy"], C = chosen.accuracy, chosen.C
    if arguments.newton_steps:
        solver.MAX_ROUGH, solver.solve.__kwdefaults__["max_iterations"] = 0, arguments.newton_steps
    newton.MAX_PRODUCTS = arguments.products or newton.MAX_PRODUCTS
    with phase(f"fit, C = {C:g}") as found:
        classifier = solver.fit(train_NxG, train_N, C, arguments.classes)
        found["note"] = f"{classifier.iterations} Newton steps, converged: {classifier.converged}"
    with phase("test") as found:
        found["accuracy"] = float(np.mean(classifier.ranked(test_MxG)[:, 0] == test_M))


def mae(arguments, train_NxG, train_N, test_MxG, test_M, phase):
    """The head of `configs/probe_mae.py` on features instead of images."""
    import jax
    import jax.numpy as jnp
    import optax

    from crate_jax.config import load_config
    from crate_jax.evaluation.classification import EPSILON, HeadOnly, head_factors
    from crate_jax.evaluation.solver import Classifier, moments
    from crate_jax.training.optimizer import make_optimizer

    class OnFeatures(HeadOnly):
        def tokens(self, params, image_BxHxWxC):
            return image_BxHxWxC

    config = load_config("probe_mae", [])
    if arguments.epochs:
        config.total_epochs, config.optimizer.warmup_epochs = arguments.epochs, arguments.epochs / 9
    size = config.batch_size = min(config.batch_size, len(train_N))
    config.optimizer.learning_rate = 0.1 * size / 256
    objective, optimizer = OnFeatures(None, (), ()), make_optimizer(config, len(train_N), head_factors)
    shape = train_NxG.shape[1], arguments.classes
    params = {"head_kernel": 0.01 * jax.random.normal(jax.random.key(0), shape), "head_bias": jnp.zeros(shape[1])}
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, batch):
        gradient = jax.grad(lambda params: objective(params, batch, None)[0])(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    epochs = round(config.total_epochs)
    with phase(f"{epochs} epochs"):
        for epoch in range(epochs):
            order_N = np.random.RandomState(epoch).permutation(len(train_N))
            for first in range(0, len(order_N) - size + 1, size):
                index_B = np.sort(order_N[first : first + size])
                batch = {"image": np.asarray(train_NxG[index_B], np.float32), "label": train_N[index_B]}
                params, state = step(params, state, batch)
        jax.block_until_ready(params)
    with phase("statistics and test") as found:
        mean_G, scale_G = moments(train_NxG)
        scale_G = 1 / np.sqrt(1 / scale_G**2 + EPSILON)
        fitted = Classifier(params["head_kernel"], params["head_bias"], mean_G, scale_G, 0.0, 0.0, 0)
        found["accuracy"] = fitted.accuracy(test_MxG, test_M)


def knn(arguments, train_NxG, train_N, test_MxG, test_M, phase):
    """Nearest neighbours of the first `--queries` test rows, or of all."""
    from crate_jax.evaluation import knn

    queries = arguments.queries or len(test_M)
    with phase(f"{queries:,} queries") as found:
        found["accuracy"] = float(np.mean(knn.predict(train_NxG, train_N, test_MxG[:queries]) == test_M[:queries]))


PARTS = {"ours": ours, "mae": mae, "knn": knn}


def main():
    """The benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_281_167)
    parser.add_argument("--test_rows", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--part", default="ours,mae,knn")
    parser.add_argument("--folder", type=pathlib.Path, help="of the features, which are kept there for the next call")
    parser.add_argument("--C", type=float, help="of the fit, so that none is chosen")
    parser.add_argument("--newton_steps", type=int, help="of the fit, none at C / 10; the probe's: 12 there, then 100")
    parser.add_argument("--products", type=int, help="conjugate gradients of its Newton steps at most; the probe's: 40")
    parser.add_argument("--epochs", type=int, help="of MAE's head; the recipe's: 90")
    parser.add_argument("--queries", type=int, help="test rows that kNN classifies; all of them")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child == "write":
        write_rows(arguments.folder / "train.npy", arguments.rows, arguments, seed=1)
        write_rows(arguments.folder / "test.npy", arguments.test_rows, arguments, seed=2)
        return
    if arguments.child:
        run_part(arguments, arguments.folder)
        return
    cuts = {name: getattr(arguments, name) for name in ("C", "newton_steps", "products", "epochs", "queries")}
    print(f"{arguments.rows:,} x {arguments.width}, {arguments.classes:,} classes; cut: ", end="")
    print(", ".join(f"{name}={value}" for name, value in cuts.items() if value) or "nothing", flush=True)
    with contextlib.ExitStack() as stack:
        kept = arguments.folder or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = kept / f"{arguments.rows}x{arguments.width}-{arguments.classes}-{arguments.test_rows}"

        def child(part):
            words = [sys.executable, __file__, *sys.argv[1:], f"--child={part}", f"--folder={folder}"]
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
                yield from map(json.loads, process.stdout)
            if process.returncode:
                raise SystemExit(f"{part} ended with exit code {process.returncode}.")

        if not (folder / "labels-test.npy").exists():
            folder.mkdir(parents=True, exist_ok=True)
            list(child("write"))
        print("| phase | wall, s | processor, s | peak, GiB | of it anonymous, GiB | ru_maxrss, GiB | accuracy | |")
        print("|---|---|---|---|---|---|---|---|")
        for part in arguments.part.split(","):
            for one in child(part):
                sizes = " | ".join(f"{one[name] / GIB:.2f}" for name in ("resident", "anonymous", "maxrss"))
                accuracy = f"{one['accuracy']:.4f}" if "accuracy" in one else ""
                print(f"| {one['phase']} | {one['wall']:.1f} | {one['processor']:.1f} | {sizes} | {accuracy} |", end="")
                print(f" {one.get('note', '')} |", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
