"""Images per second and core: this project's input pipeline, what bounds it, and PyTorch's DataLoader.

    python benchmarks/input_pipeline.py [--seconds=8] [--rounds=3] [--core=0] [--out=FILE.json]
    python benchmarks/input_pipeline.py --table [--seconds=8] [--workers=0,1,2] [--processes=0,2] [--rows=32,256]

The second prints a table for numbers of workers (threads, shared by the worker processes) and rows per host, with peak
memory: of large pictures (as below), of small ones (48 pixels, cropped to 32), and of large ones with DataLoader.

In the first, all of them make MAE's training crops of 224 pixels from 500 x 375 JPEGs (real photographs, quality 90),
on one core, in turn, several rounds; medians are printed. Seconds are those that the process and its workers computed,
so other work on the machine counts little; on a quiet core they are seconds of the clock.

bare    tf.image.decode_and_crop_jpeg, then tf.image.resize to bytes, nothing else: boxes are given, nothing is read.
        Bicubic as the recipe's (antialiased), and without antialiasing, which is quicker and not the recipe's.
ours    train_batches from a folder of files: order, reading, decoding, cropping, mirroring, batches of bytes.
torch   DataLoader with one worker and the recipe's transforms on Pillow images (torchvision's are used where it is
        installed), normalised floats as the recipe has them.

How the resizes differ from Pillow's, which the recipe names, is printed too: a quicker one must not be another picture.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

SIZE, WIDTH, HEIGHT, BATCH = 224, 500, 375, 64
SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_photographs(folder, count):
    """JPEGs of 500 x 375 cut out of the embedded photographs; those in colour and large enough."""
    from crate_jax.data.embedded.photographs import photograph

    random = np.random.RandomState(0)
    pictures = [Image.fromarray(photograph(name)) for name in ("astronaut", "coffee", "motorcycle", "rocket", "tissue")]
    pictures += [Image.fromarray(photograph(name)) for name in ("china", "flower", "chelsea")]
    for number in range(count):
        picture = pictures[number % len(pictures)]
        width = int(min(picture.width, picture.height * WIDTH / HEIGHT) * random.uniform(0.75, 1))
        height = width * HEIGHT // WIDTH
        left, top = random.randint(picture.width - width + 1), random.randint(picture.height - height + 1)
        piece = picture.crop((left, top, left + width, top + height)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        path = pathlib.Path(folder, "train", f"class{number % 10}", f"{number:04}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        piece.save(path, quality=90)


def computed_seconds():
    """Seconds that this process and its worker processes have computed so far."""
    workers = 0.0
    for process in multiprocessing.active_children():
        fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        workers += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return time.process_time() + workers


def repeated(function, seconds):
    """Images a computed second of a function that makes some and returns how many."""
    for _ in range(4):  # what was made ahead
        function()
    begun, start, count = time.perf_counter(), computed_seconds(), 0
    while time.perf_counter() - begun < seconds:
        count += function()
    return count / (computed_seconds() - start)


def boxes(count):
    """MAE's boxes for pictures of 500 x 375: left, top, right, bottom."""
    from crate_jax.data.augment import NUMBERS, crop_box
    from crate_jax.data.randomness import uniforms

    numbers = uniforms(0, np.zeros(count, int), np.arange(count), 1, NUMBERS)
    return [crop_box(row, WIDTH, HEIGHT, SCALE, RATIO) for row in numbers]


def bare(files, antialias):
    """TensorFlow's fused decode and crop, and its resize; returns a function that makes one batch, and one image."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    encoded, found = [pathlib.Path(file).read_bytes() for file in files], boxes(len(files))

    @tf.function(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([4], tf.int32)])
    def one(data, window):
        crop = tf.image.decode_and_crop_jpeg(data, window, channels=3)
        resized = tf.image.resize(crop, (SIZE, SIZE), "bicubic", antialias=antialias)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)

    windows = [[top, left, bottom - top, right - left] for left, top, right, bottom in found]
    dataset = tf.data.Dataset.from_tensor_slices((encoded, windows)).repeat().map(one).batch(BATCH)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    batches = iter(dataset.with_options(options))
    return lambda: len(next(batches)), lambda number: one(encoded[number], windows[number]).numpy()


def ours(folder, small=False, rows=BATCH, workers=0, processes=0):
    """This project's training batches from a folder; returns a function that makes one batch, and what ends it."""
    from crate_jax.config import default_config
    from crate_jax.data.pipeline import train_batches

    config = default_config()
    config.data.name, config.data.data_dir = ("embedded_photographs", None) if small else ("image_folder", folder)
    config.batch_size, config.data.num_workers, config.data.worker_processes = rows, workers, processes
    batches = train_batches(config, 32 if small else SIZE, 3, None)
    return lambda: len(next(batches)["image"]), batches.close


def torch_dataset(files):
    """The recipe's transforms on Pillow images: torchvision's, or the same written out."""
    import torch

    try:
        from torchvision import transforms

        bicubic = transforms.InterpolationMode.BICUBIC
        steps = [transforms.RandomResizedCrop(SIZE, SCALE, RATIO, bicubic), transforms.RandomHorizontalFlip()]
        transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    except ImportError:
        transform = written_out(torch)

    class Pictures(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, number):
            with open(files[number], "rb") as file:
                return transform(Image.open(file).convert("RGB")), 0

    return Pictures()


def written_out(torch):
    """RandomResizedCrop, RandomHorizontalFlip, ToTensor and Normalize without torchvision."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]

    def box(width, height):
        for _ in range(10):
            area = width * height * torch.empty(1).uniform_(*SCALE).item()
            ratio = math.exp(torch.empty(1).uniform_(math.log(RATIO[0]), math.log(RATIO[1])).item())
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = torch.randint(0, width - w + 1, (1,)).item(), torch.randint(0, height - h + 1, (1,)).item()
                return left, top, left + w, top + h
        return 0, 0, width, height

    def transform(picture):
        picture = picture.crop(box(*picture.size)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        if torch.rand(1).item() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return tensor.sub_(mean).div_(std)

    return transform


def torch_loader(files, rows=BATCH, workers=1):
    """PyTorch's DataLoader with worker processes (0: none); returns a function that makes one batch."""
    import torch

    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(
        torch_dataset(files), rows, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
    )

    def endless():
        while True:
            yield from loader

    batches = endless()
    return lambda: len(next(batches)[0])


def difference_from_pillow(files, make_one):
    """Mean and largest difference, in grey levels, of one's crops from Pillow's."""
    differences = []
    for number, (left, top, right, bottom) in enumerate(boxes(len(files))[:32]):
        picture = Image.open(files[number]).convert("RGB").crop((left, top, right, bottom))
        expected = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC), int)
        differences.append(abs(make_one(number).astype(int) - expected))
    return float(np.mean(differences)), int(np.max(differences))


def differences(files):
    """Of every resize from Pillow's."""
    from crate_jax.data.augment import resized_crop
    from crate_jax.data.picture import decoded

    found = boxes(len(files))

    def ours_one(number):
        whole = decoded(pathlib.Path(files[number]).read_bytes(), 3)
        return np.asarray(resized_crop(whole, found[number], SIZE, "bicubic"))

    return {
        "ours": difference_from_pillow(files, ours_one),
        "bare, antialiased": difference_from_pillow(files, bare(files, True)[1]),
        "bare, not antialiased": difference_from_pillow(files, bare(files, False)[1]),
    }


def cell(folder, name, rows, workers, processes, seconds):
    """Prints images a computed second of one combination, and the MiB of this process and of its largest worker."""
    if name == "torch":
        files = sorted(map(str, pathlib.Path(folder).rglob("*.jpg")))
        make_batch, close = torch_loader(files, rows, processes), lambda: None
    else:
        make_batch, close = ours(folder, name == "small", rows, workers, processes)
    speed = repeated(make_batch, seconds)
    workers_of_mine = [pathlib.Path(f"/proc/{one.pid}/status").read_text() for one in multiprocessing.active_children()]
    peaks = [int(text.partition("VmHWM:")[2].split()[0]) for text in workers_of_mine]
    print(speed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, max(peaks, default=0) // 1024)
    close()


def processor():
    """The name of this machine's processor, and its cores."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'processor unknown'}, {len(os.sched_getaffinity(0))} cores"


def print_table(folder, arguments):
    """Images a computed second and MiB of each combination, all of them in turn in each round: medians, in Markdown."""
    cells = []
    for rows in arguments.rows:
        for workers, processes in itertools.product(arguments.workers, arguments.processes):
            if processes <= workers:
                cells += [("large", rows, workers, processes), ("small", rows, workers, processes)]
        cells += [("torch", rows, 0, workers) for workers in arguments.processes]
    found = {one: [] for one in cells}
    for _ in range(arguments.rounds):
        for one in cells:
            words = [folder, *map(str, one), str(arguments.seconds)]
            done = subprocess.run(
                [sys.executable, __file__, "--cell", *words], capture_output=True, text=True, check=True
            )
            found[one].append([float(word) for word in done.stdout.split()])
    print(f"{processor()}\n\n| pictures | rows | threads | processes | images/s | MiB | MiB, worker |\n|{' --- |' * 7}")
    for (name, rows, workers, processes), numbers_found in sorted(found.items()):
        speed, own, worker = map(statistics.median, zip(*numbers_found, strict=True))
        last = f"{worker:.0f}" if processes else ""
        print(f"| {name} | {rows} | {workers} | {processes} | {speed:,.0f} | {own:.0f} | {last} |", flush=True)


def numbers(text):
    """Whole numbers from "0,1,2"."""
    return [int(word) for word in text.split(",")]


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--core", type=int, default=0, help="number of the core that everything runs on; -1: all cores")
    parser.add_argument("--table", action="store_true", help="images/s by workers, processes and rows per host")
    parser.add_argument("--workers", type=numbers, default=[0, 1, 2])
    parser.add_argument("--processes", type=numbers, default=[0, 2])
    parser.add_argument("--rows", type=numbers, default=[32, 256])
    parser.add_argument("--out", help="also writes the numbers as JSON")
    parser.add_argument("--cell", nargs=6, help=argparse.SUPPRESS)  # one entry of the table, in a process of its own
    arguments = parser.parse_args()
    if arguments.cell:
        folder, name, *given = arguments.cell
        return cell(folder, name, *map(int, given[:3]), float(given[3]))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if arguments.core >= 0 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {arguments.core})
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(folder, arguments.pictures)
        if arguments.table:
            return print_table(folder, arguments)
        files = sorted(str(path) for path in pathlib.Path(folder).rglob("*.jpg"))
        measured = measure(folder, files, arguments.rounds, arguments.seconds)
        report = {"images_per_second": measured, "difference_from_pillow": differences(files)}
    print_report(report)
    if arguments.out:
        pathlib.Path(arguments.out).write_text(json.dumps(report, indent=2) + "\n")


def measure(folder, files, rounds, seconds):
    """Medians over rounds, each contender alone in its turn."""
    contenders = {
        "bare, antialiased": lambda: (bare(files, True)[0], None),
        "bare, not antialiased": lambda: (bare(files, False)[0], None),
        "ours": lambda: ours(folder),
    }
    try:
        import torch  # noqa: F401

        contenders["torch"] = lambda: (torch_loader(files), None)
    except ImportError:
        print("PyTorch is not installed (extra [torch]); it is left out")
    found = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, begin in contenders.items():
            make_batch, end = begin()
            found[name].append(repeated(make_batch, seconds))
            if end:
                end()
            del make_batch
    return {name: statistics.median(numbers) for name, numbers in found.items()}


def print_report(report):
    """What a person reads."""
    speed = report["images_per_second"]
    print("\nimages a computed second, 500 x 375 JPEG to 224 pixels")
    for name, number in speed.items():
        print(f"  {name:<24} {number:7.0f}   ours is {speed['ours'] / number:.2f} times as fast")
    print("difference from Pillow's bicubic, in grey levels: mean, largest")
    for name, (mean, largest) in report["difference_from_pillow"].items():
        print(f"  {name:<24} {mean:6.2f} {largest:4}")


if __name__ == "__main__":
    main()
