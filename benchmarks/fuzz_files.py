"""Odd pictures and damaged checkpoint files: each is read or refused with a one-line error; nothing else may happen.

    python benchmarks/fuzz_files.py --pictures=200 --checkpoints=200 --seed=0

Pictures: every mode and format that Pillow writes, TIFFs of any number type, PNG with odd chunks, sizes from 1 x 1 to
20,000 x 1; a third of them with bytes changed, cut out or repeated. Checkpoints: PyTorch and safetensors files in any
wrapping and with any prefix, and NumPy archives, half of them damaged likewise. Exit code 1 and the case's number where
anything else is raised, a warning is printed, or a case takes longer than a minute.
"""

import argparse
import io
import pathlib
import tempfile
import time
import warnings

import numpy as np
import tifffile
from PIL import Image

from crate_jax.data import augment
from crate_jax.data.picture import CorruptPicture, opened, reduced, upright, upright_size
from crate_jax.errors import UserError
from crate_jax.interop.tensor_files import open_tensors

MODES = (
    "1",
    "L",
    "LA",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
    "PA",
    "RGBX",
    "La",
    "RGBa",
)
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "TGA", "ICO", "JPEG2000", "AVIF", "MPO", "PCX", "DIB")
SIZES = ((1, 1), (1, 300), (300, 1), (20_000, 1), (1, 9000), (17, 31), (64, 64), (513, 400), (2, 3000))
TYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "?")
LONGEST = 60.0  # seconds for one case


def picture_bytes(random):
    """One odd picture and what it is, in words."""
    width, height = SIZES[random.integers(len(SIZES))]
    if random.random() < 0.2:
        return odd_tiff(random, width, height)
    noise = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
    for _ in range(50):
        mode, kind = MODES[random.integers(len(MODES))], FORMATS[random.integers(len(FORMATS))]
        exif = Image.Exif()
        exif[0x0112] = int(random.integers(0, 10))
        options = {"exif": exif} if random.random() < 0.5 and kind in ("PNG", "JPEG", "WEBP", "MPO") else {}
        if kind == "PNG" and mode in ("L", "P", "1"):
            options["transparency"] = int(random.integers(0, 256))
        try:
            noise.convert("RGBA" if mode == "PA" else "RGB").convert(mode).save(buffer := io.BytesIO(), kind, **options)
        except Exception:  # Pillow does not write this mode in this format: another one
            continue
        return buffer.getvalue(), f"{kind} {mode} {width} x {height} {options}"
    raise RuntimeError("no format at all")


def odd_tiff(random, width, height):
    """A TIFF of any number type, any number of channels and either byte order."""
    kind, channels = TYPES[random.integers(len(TYPES))], (1, 2, 3, 4)[random.integers(4)]
    values = random.normal(0, 10.0 ** random.integers(0, 9), (height, width, channels)[: 2 + (channels > 1)])
    if random.random() < 0.2:
        values[random.random(values.shape) < 0.1] = [np.nan, np.inf, -np.inf][random.integers(3)]
    with np.errstate(all="ignore"):
        values = values.astype(kind)
    order = "<>"[random.integers(2)]
    photometric = "rgb" if channels in (3, 4) else ("minisblack", "miniswhite")[random.integers(2)]
    tifffile.imwrite(buffer := io.BytesIO(), values, byteorder=order, photometric=photometric)
    return buffer.getvalue(), f"TIFF {kind} {order} {values.shape} {photometric}"


def damaged(data, random):
    """The bytes with some of them changed, cut out, repeated or cut off."""
    data, place = bytearray(data), int(random.integers(0, len(data)))
    kind = random.integers(5)
    if kind == 0:
        for spot in random.integers(0, len(data), 1 + len(data) // 200):
            data[spot] = int(random.integers(256))
    elif kind == 1:
        data[place] ^= 1 << int(random.integers(8))
    elif kind == 2:
        del data[place : place + int(random.integers(1, 400))]
    elif kind == 3:
        data[place:place] = data[max(0, place - int(random.integers(1, 400))) : place]
    else:
        del data[place:]
    return bytes(data)


def read_picture(data, random):
    """What training does with it: header, crop, reduced decoding, resize; and evaluation's centre crop."""
    channels = (1, 3)[random.integers(2)]
    picture, orientation = opened(data)
    uniform_K = random.random(augment.NUMBERS)
    box = augment.crop_box(uniform_K, *upright_size(picture, orientation), (0.2, 1.0), (3 / 4, 4 / 3))
    smaller = reduced(picture, box, 32)
    picture = upright(picture, orientation, channels)
    assert augment.resized_crop(picture, smaller, 32, "bicubic").size == (32, 32)
    assert augment.centre_crop(picture, (32, 48), 37, "bicubic").size == (48, 32)


def checkpoint_bytes(random):
    """One checkpoint file, undamaged, and what it is, in words."""
    import torch

    state = {
        name: torch.from_numpy(random.normal(size=shape).astype(np.float32))
        for name, shape in {"patch_embed.proj.weight": (8, 3, 4, 4), "blocks.0.x": (8,), "head.bias": ()}.items()
    }
    prefix = ("", "module.", "model.", "encoder.", "_orig_mod.module.", "teacher.")[random.integers(6)]
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.complex64, torch.bool,
             torch.float8_e4m3fn)  # fmt: skip
    kind = kinds[random.integers(len(kinds))]
    state = {prefix + name: tensor.to(kind) for name, tensor in state.items()}
    buffer = io.BytesIO()
    if random.random() < 0.2:
        arrays = {name: random.normal(size=tuple(tensor.shape)) for name, tensor in state.items()}
        write = (np.savez, np.savez_compressed)[random.integers(2)]
        write(buffer, **arrays, other=([1j], ["x"], [None], [1.5])[random.integers(4)])
        return buffer.getvalue(), f"npz by {write.__name__}"
    if random.random() < 0.5:
        from safetensors.torch import save

        metadata = (None, {"format": "pt"}, {"crate_jax": "{"}, {"crate_jax": "[]"})[random.integers(4)]
        return save(state, metadata), f"safetensors {prefix!r} {kind} {metadata}"
    extras = ({}, {"_extra_state": None}, {"step": 3}, {"a": {"b": 1}}, {"n": np.float64(1)})[random.integers(5)]
    wrapper = ("model", "state_dict", "module", "model_ema", "weights", "")[random.integers(6)]
    content = {wrapper: state, "epoch": 1, "best": np.float64(0.5)} if wrapper else state | extras
    new = bool(random.integers(2))
    torch.save(content, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue(), f"torch {wrapper!r} {prefix!r} {kind} {list(extras)} zip={new}"


def read_checkpoint(data, folder, random):
    """Opens the file under some name and reads every tensor."""
    path = folder / ("x.pth", "x.safetensors", "X.SAFETENSORS", "x.bin", "x")[random.integers(5)]
    path.write_bytes(data)
    source = open_tensors(path)
    for name in source.shapes:
        assert source.read(name).shape == tuple(source.shapes[name])


def one_picture(number, seed):
    """(what it is, the sentence of its refusal or None)."""
    random = np.random.default_rng((seed, number, 0))
    data, words = picture_bytes(random)
    if number % 3 == 0:
        data, words = damaged(data, random), words + ", damaged"
    try:
        read_picture(data, random)
        return words, None
    except CorruptPicture as error:
        return words, str(error)


def one_checkpoint(number, seed, folder):
    """(what it is, the sentence of its refusal or None)."""
    random = np.random.default_rng((seed, number, 1))
    data, words = checkpoint_bytes(random)
    if number % 2 == 0:
        data, words = damaged(data, random), words + ", damaged"
    try:
        read_checkpoint(data, folder, random)
        return words, None
    except UserError as error:
        return words, str(error)


def run(cases):
    """Runs functions that return (words, refusal); returns how many were read and the refusals.

    Raises:
        AssertionError: any other outcome than success or a one-line error, with the case's number.
    """
    read, refused = 0, []
    for number, case in cases:
        begun = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", module=r"PIL\.")  # as `picture` has it
            try:
                words, sentence = case()
            except Exception as error:
                raise AssertionError(f"case {number}: {type(error).__name__}: {error}") from error
        if sentence is not None:
            assert sentence and "\n" not in sentence and len(sentence) < 500, f"case {number} ({words}): {sentence!r}"
        assert time.monotonic() - begun < LONGEST, f"case {number} ({words}) took longer than {LONGEST} s"
        read, refused = read + (sentence is None), [*refused, (words, sentence)] if sentence else refused
    return read, refused


def main():
    """Runs both kinds and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for flag, default in (("pictures", 200), ("checkpoints", 200), ("seed", 0)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    parser.add_argument("--show", action="store_true", help="print every refusal")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kinds = {
            "pictures": [(n, lambda n=n: one_picture(n, args.seed)) for n in range(args.pictures)],
            "checkpoints": [
                (n, lambda n=n: one_checkpoint(n, args.seed, pathlib.Path(folder))) for n in range(args.checkpoints)
            ],
        }
        for kind, cases in kinds.items():
            begun = time.monotonic()
            read, refused = run(cases)
            print(
                f"{kind}: {read} read, {len(refused)} refused with a one-line error, {time.monotonic() - begun:.1f} s"
            )
            for words, sentence in refused if args.show else ():
                print(f"  {words}: {sentence}")


if __name__ == "__main__":
    main()
