"""Batches: the same for any number of hosts and after any resume; padding; errors that surface; memory."""

import dataclasses
import os
import signal
import threading
import zlib

import jax
import numpy as np
import PIL
import pytest

from crate_jax.data import batches, pipeline
from crate_jax.data.loader import chunk_rows
from crate_jax.data.order import training_order
from crate_jax.data.sources import open_source

# computed by version 0.1 with Pillow 13; earlier ones resize along rows first where along columns first is less work,
# and what overshoots is clipped in between (2 % of these pixels differ, by 4 levels at most)
PHOTOGRAPHS_OF_0_1 = [1232077327, 1780973917]
PHOTOGRAPHS_BEFORE_PILLOW_13 = [2793033653, 1082842141]
EVALUATION_OF_0_1 = [3272083609, 2944325210, 2754744156]


def batches_of(config, count, **options):
    iterator = pipeline.train_batches(config, 32, 3, options.pop("sharding", None), **options)
    made = [{key: np.asarray(value) for key, value in next(iterator).items()} for _ in range(count)]
    iterator.close()
    return made


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


class HostOf:
    """What a sharding over axis 0 tells host `number` of `hosts`, with two devices a host, replicated over a third."""

    def __init__(self, number, hosts):
        self.number, self.hosts = number, hosts

    def addressable_devices_indices_map(self, shape):
        rows = shape[0] // (2 * self.hosts)
        firsts = [(2 * self.number + device) * rows for device in (0, 1, 1)]
        return {device: (slice(first, first + rows),) for device, first in enumerate(firsts)}


def fingerprint(batches):
    """One number per batch, of every value in it."""
    return [zlib.crc32(b"".join(np.ascontiguousarray(b[key]).tobytes() for key in sorted(b))) for b in batches]


def test_the_sequence_of_batches_is_that_of_the_first_version(config):
    """Runs of version 0.1 resume bit for bit; the numbers were computed there."""
    config.batch_size = 48
    expected = PHOTOGRAPHS_OF_0_1 if int(PIL.__version__.split(".")[0]) >= 13 else PHOTOGRAPHS_BEFORE_PILLOW_13
    assert fingerprint(batches_of(config, 2, start_step=12)) == expected
    made = pipeline.evaluation_batches(config, "test[:100]", 32, 3, 48)
    assert fingerprint(made) == EVALUATION_OF_0_1


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_global_batch_does_not_depend_on_hosts(config, monkeypatch, hosts):
    config.batch_size = 160  # several chunks for each host
    whole = batches_of(config, 2)
    source = open_source(config.data.name, "train")
    for step in range(2):
        examples, rows = np.arange(source.num_examples), np.arange(config.batch_size)
        index, epoch = training_order(config.seed, config.batch_size, examples, step, rows)
        np.testing.assert_array_equal(whole[step]["index"], index)
        np.testing.assert_array_equal(whole[step]["epoch"], epoch)
    parts = []
    monkeypatch.setattr(jax, "make_array_from_process_local_data", lambda sharding, value, shape: value)
    for number in range(hosts):
        parts.append(batches_of(config, 2, sharding=HostOf(number, hosts)))
        assert len(parts[-1][0]["index"]) == config.batch_size // hosts
    together = [{key: np.concatenate([part[step][key] for part in parts]) for key in whole[step]} for step in range(2)]
    assert_same(together, whole)


def test_placed_by_a_sharding(config):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    iterator = pipeline.train_batches(config, 32, 3, sharding)
    batch = next(iterator)
    iterator.close()
    assert batch["image"].sharding.is_equivalent_to(sharding, 4)
    assert {key: str(value.dtype) for key, value in batch.items()} == {
        "image": "uint8",
        "label": "int32",
        "index": "int32",
        "epoch": "int32",
    }
    assert_same([{key: np.asarray(value) for key, value in batch.items()}], batches_of(config, 1))


def test_resume_goes_on_where_it_stopped(config):
    assert_same(batches_of(config, 5)[3:], batches_of(config, 2, start_step=3))


def test_threads_change_nothing(config):
    config.data.num_workers = 0
    alone = batches_of(config, 3)
    config.data.num_workers = 3
    assert_same(alone, batches_of(config, 3))


def test_kept_pictures_change_nothing(config):
    """The second epoch comes out of the kept pictures, the resumed run decodes them anew."""
    config.data.train_split = "train[:24]"
    assert_same(batches_of(config, 6)[4:], batches_of(config, 2, start_step=4))


def test_an_example_is_augmented_anew_in_each_epoch(config):
    config.data.train_split = "train[:16]"
    first, second = batches_of(config, 2)
    images = {int(index): image for index, image in zip(second["index"], second["image"], strict=True)}
    assert sorted(images) == list(range(16))
    assert all((image != images[int(index)]).any() for index, image in zip(first["index"], first["image"], strict=True))


def test_evaluation_sees_every_example_once_and_pads_the_last_batch(config):
    config.data.max_corrupt_fraction = 0.0
    made = list(pipeline.evaluation_batches(config, "test[:50]", 32, 3, 16))
    assert [batch["valid"].sum() for batch in made] == [16, 16, 16, 2]
    index = np.concatenate([batch["index"][batch["valid"]] for batch in made])
    assert index.tolist() == list(range(50))
    padding = ~made[-1]["valid"]
    assert not made[-1]["image"][padding].any() and (made[-1]["label"][padding] == -1).all()
    assert sum(len(batch["index"]) for batch in pipeline.evaluation_batches(config, "test[:9]", 32, 3, 8)) == 16


def test_one_channel(config):
    config.data.name, config.data.augmentation, config.data.flip = "embedded_digits", "affine", False
    iterator = pipeline.train_batches(config, 28, 1, None)
    assert next(iterator)["image"].shape == (16, 28, 28, 1)
    iterator.close()
    (batch,) = pipeline.evaluation_batches(config, "test[:4]", 28, 3, 4)
    assert (batch["image"][..., :1] == batch["image"]).all()


def test_rectangular_images(config):
    config.data.mixup = 0.8
    iterator = pipeline.train_batches(config, (24, 40), 3, None)
    batch = next(iterator)
    iterator.close()
    assert batch["image"].shape == (16, 24, 40, 3) and batch["image"].reshape(16, -1).any(1).all()
    (shown,) = pipeline.evaluation_batches(config, "test[:4]", [24, 40], 3, 4)
    assert shown["image"].shape == (4, 24, 40, 3) and shown["image"].reshape(4, -1).any(1).all()


class Failing:
    """A source of which reading example 40 and later goes wrong, or waits for an event."""

    def __init__(self, source, event=None):
        self.source, self.event = source, event

    def read(self, indices):
        if max(indices) >= 40:
            if self.event is None:
                raise ZeroDivisionError("in a worker")
            self.event.wait()
        return self.source.read(indices)


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_surface_in_the_consumer(config, monkeypatch, workers):
    source = open_source("embedded_photographs", "test")
    failing = dataclasses.replace(source, store=Failing(source))
    monkeypatch.setattr(pipeline, "open_source", lambda *_: failing)
    config.data.num_workers = workers
    iterator = pipeline.evaluation_batches(config, "test", 32, 3, 16)
    assert [next(iterator)["index"][0] for _ in range(2)] == [0, 16]
    with pytest.raises(ZeroDivisionError, match="in a worker"):
        next(iterator)
    with pytest.raises(StopIteration):
        next(iterator)
    iterator.close()


def test_a_wait_for_data_can_be_left(config, monkeypatch):
    """A loader that hangs keeps no signal from ending the wait, nor anybody from closing it."""
    source, event = open_source("embedded_photographs", "test"), threading.Event()
    hanging = dataclasses.replace(source, store=Failing(source, event))
    monkeypatch.setattr(pipeline, "open_source", lambda *_: hanging)
    monkeypatch.setattr(batches, "JOIN_SECONDS", 0.1)
    monkeypatch.setattr(batches, "LOOK_SECONDS", 0.1)
    iterator = pipeline.evaluation_batches(config, "test", 32, 3, 16)
    assert next(iterator)["index"][0] == 0
    next(iterator)
    waited = iterator.wait_seconds

    def leave(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGUSR1, leave)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    with pytest.raises(TimeoutError):
        next(iterator)
    signal.signal(signal.SIGUSR1, before)
    assert iterator.wait_seconds - waited >= 0.05
    threading.Timer(0.1, iterator.close).start()
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(iterator)
    event.set()


def test_close_ends_the_thread(config):
    config.data.num_workers = 2
    iterator = pipeline.train_batches(config, 32, 3, None)
    next(iterator)
    iterator.close()
    iterator.close()
    assert not iterator._thread.is_alive()
    with pytest.raises(StopIteration):
        next(iterator)


def test_chunks_are_equal_parts():
    assert chunk_rows(32, 32 * 32 * 3) == 32 and chunk_rows(100, 32 * 32 * 3) == 50
    assert chunk_rows(4096, 224 * 224 * 3) <= 16 and chunk_rows(1, 10**9) == 1
