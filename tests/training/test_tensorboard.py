"""TensorBoard's own reader reads back what is written, and TensorFlow stays out."""

import subprocess
import sys

import pytest

from crate_jax.training import tensorboard_events


def read(folder):
    """(tag to [(step, value)], hyperparameters) by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    events = EventAccumulator(str(folder)).Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    return found, dict(metadata.parse_session_start_info_plugin_data(content).hparams)


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
        writer.flush()
    writer.close()
    if remote:
        assert len(uploads) == 2  # the first line and the end: seconds, not lines, make uploads
        next((tmp_path / "run").glob("events*")).write_bytes(uploads[-1])
    scalars, hyperparameters = read(tmp_path / "run")
    assert scalars == {"loss": [(1, 0.5), (20, 10.0)], "nonzero/encoder_00": [(1, 0.25), (20, 0.25)]}
    assert hyperparameters["optimizer.name"].string_value == "adamw" and hyperparameters["seed"].number_value == 3


def test_writing_does_not_import_tensorflow(tmp_path):
    code = (
        "import sys; from crate_jax.training.tensorboard_events import EventWriter; "
        f"w = EventWriter({str(tmp_path)!r}); w.write_hparams({{'a': 1}}); w.write_scalars(1, {{'b': 2}}); w.close(); "
        "sys.exit('tensorflow' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
