"""Logs for people: TensorBoard's own reader reads back what is written, W&B gets the same, TensorFlow stays out."""

import importlib.util
import io
import json
import struct
import subprocess
import sys

import pytest
from PIL import Image

import crate_jax
from crate_jax.config import override
from crate_jax.errors import UserError
from crate_jax.training import tensorboard_events


def read(folder):
    """(tag to [(step, value)], tag to pictures, hyperparameters) by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    events = EventAccumulator(str(folder)).Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    images = {tag: events.Images(tag) for tag in events.Tags()["images"]}
    return found, images, dict(metadata.parse_session_start_info_plugin_data(content).hparams)


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_written_is_read_back(tmp_path, monkeypatch, remote):
    writer = tensorboard_events.EventWriter(tmp_path / "run")
    if remote:  # the same bytes, uploaded as a whole
        uploads = []

        class Object:
            def write_bytes(self, data):
                uploads.append(data)

        writer._records._writer.close()
        writer._records._writer = tensorboard_events._Upload(Object())
        writer._write(file_version="brain.Event:2")
    writer.write_hparams({"optimizer.name": "adamw", "seed": 3, "data.flip": True})
    for step in (1, 20):
        writer.write_scalars(step, {"loss": 0.5 * step, "nonzero/encoder_00": 0.25})
    buffer = io.BytesIO()
    Image.new("RGB", (5, 3)).save(buffer, "png")
    writer.write_pictures(20, {"completed": buffer.getvalue()})
    writer.close()
    if remote:
        assert len(uploads) == 2  # the first line and the end: seconds, not lines, make uploads
        next((tmp_path / "run").glob("events*")).write_bytes(uploads[-1])
    scalars, images, hyperparameters = read(tmp_path / "run")
    assert scalars == {"loss": [(1, 0.5), (20, 10.0)], "nonzero/encoder_00": [(1, 0.25), (20, 0.25)]}
    (picture,) = images["completed"]
    assert (picture.step, picture.width, picture.height) == (20, 5, 3)
    assert picture.encoded_image_string == buffer.getvalue()
    assert hyperparameters["optimizer.name"].string_value == "adamw" and hyperparameters["seed"].number_value == 3


def test_writing_does_not_import_tensorflow(tmp_path):
    code = (
        "import sys; from crate_jax.training.tensorboard_events import EventWriter; "
        f"w = EventWriter({str(tmp_path)!r}); w.write_hparams({{'a': 1}}); w.write_scalars(1, {{'b': 2}}); w.close(); "
        "sys.exit('tensorflow' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.fixture(scope="module")
def logged(tiny, tmp_path_factory):
    """The folder of a run that was logged everywhere that is installed."""
    names = ("tensorboard", "wandb") if importlib.util.find_spec("wandb") else ("tensorboard",)
    leaves = {"total_steps": 3, "picture_every_steps": 2, "measure_every_steps": 1, "logging": names}
    folder = tmp_path_factory.mktemp("logged") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        crate_jax.pretrain(override(tiny, leaves.items()), folder)
    return folder


def test_a_run_draws_for_its_logs(logged):
    _, images, _ = read(logged)
    assert {name: [one.step for one in found] for name, found in images.items()} == {"completed": [2], "layers": [2]}
    assert min(one.width for found in images.values() for one in found) > 300


def history(file):
    """The lines in a file of wandb's offline mode: LevelDB's log format, a protobuf message a record."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, part = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        part += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record, part = Record.FromString(part), b""
            if record.HasField("history"):
                yield {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}


def test_weights_and_biases_gets_the_same_offline(logged):
    pytest.importorskip("wandb")
    (folder,) = (logged / "wandb").glob("offline-run-*")
    identity = (logged / "wandb_run_id").read_text()
    assert folder.name.endswith(identity) and list(folder.glob("files/media/images/completed_2_*.png"))
    lines = [json.loads(line) for line in (logged / "metrics.jsonl").read_text().splitlines()]
    found = [(int(row["_step"]), float(row["loss"])) for row in history(folder / f"run-{identity}.wandb")]
    assert found == [(line["step"], line["loss"]) for line in lines]


def test_a_log_that_is_not_there_is_named(tiny, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"logging=wandb needs wandb: pip install 'crate-jax\[wandb\]'"):
        crate_jax.pretrain(override(tiny, [("logging", "wandb")]), tmp_path / "run")
    with pytest.raises(UserError, match="logging='mlflow' is none of tensorboard, wandb"):
        override(tiny, [("logging", "tensorboard,mlflow")])
