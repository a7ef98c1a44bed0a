"""TensorBoard event files, written with TensorBoard's own records and messages: TensorFlow is not imported."""

import io
import os
import socket
import struct
import time

from etils import epath

UPLOAD_SECONDS = 30.0  # between uploads to an object store, which cannot be appended to


class EventWriter:
    """Writes one event file; TensorBoard sees lines at once, in an object store `UPLOAD_SECONDS` later.

    Args:
        folder: TensorBoard's log folder, local or in an object store; made if it is not there.
    """

    def __init__(self, folder):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._event = Event
        self._records = RecordWriter(_Upload(path) if "://" in str(folder) else path.open("wb"))
        self._write(file_version="brain.Event:2")

    def write_hparams(self, hyperparameters):
        """What the HPARAMS tab shows: a dictionary of name to string, number or bool."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        self._write(summary=hparams_pb(hyperparameters))

    def write_scalars(self, step, scalars):
        """Numbers by name, for one step."""
        self._write_values(step, [{"tag": name, "simple_value": float(value)} for name, value in scalars.items()])

    def write_pictures(self, step, pictures):
        """Pictures by name, for one step: PNG files as bytes."""
        values = []
        for name, png in pictures.items():
            width, height = struct.unpack(">II", png[16:24])  # of its header
            picture = {"encoded_image_string": png, "height": height, "width": width, "colorspace": 3}
            values.append({"tag": name, "image": picture})
        self._write_values(step, values)

    def close(self):
        """Writes what is left."""
        self._records.close()

    def _write_values(self, step, values):
        self._write(step=int(step), summary={"value": values})
        self._records.flush()

    def _write(self, **fields):
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())


class _Upload(io.BytesIO):
    """A file in an object store, rewritten as a whole."""

    def __init__(self, path):
        super().__init__()
        self._path, self._uploaded = path, 0.0

    def flush(self):
        if time.monotonic() - self._uploaded >= UPLOAD_SECONDS:
            self._path.write_bytes(self.getvalue())
            self._uploaded = time.monotonic()

    def close(self):
        if not self.closed:
            self._path.write_bytes(self.getvalue())
            super().close()
