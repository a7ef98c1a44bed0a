"""One run per folder: a lock with a heartbeat, in the folder itself, local or in an object store.

The lock is a small JSON file that its owner rewrites every few seconds. One whose owner is gone is taken over: at once
where its process can be looked up (same machine), else when no heartbeat came for a while. Two processes that claim a
folder at the same moment both write and then look who came last; the other one ends. So nothing depends on what a file
system or an object store offers beyond reading what was written last.
"""

import contextlib
import json
import logging
import os
import pathlib
import socket
import threading
import time
import uuid

from etils import epath

from crate_jax.errors import UserError
from crate_jax.storage import is_remote, make_folder, write_once
from crate_jax.storage_errors import retried

logger = logging.getLogger(__name__)

NAME = "running.json"
BEAT_SECONDS = 10.0
SILENT_SECONDS = 35.0  # without a heartbeat, watched: the owner is gone
OLD_SECONDS = 86_400.0  # a heartbeat of that age needs no watching: clocks may differ by hours (time zones)
SETTLE_SECONDS = 1.0  # from a claim to the look whether it stood


def _machine():
    """What process numbers on this machine belong to; "" where that cannot be told."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid):
    """When a process of this machine started, in ticks since boot; None if there is none."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]  # Z: it has ended, and its parent has not noticed


class FolderLock:
    """A context that holds a folder.

    Args:
        folder: of a run or a sweep; made if it is not there.
        what: what runs in it, for the message to a second one.
        name: of the lock's file.

    Raises:
        UserError: (on entering) another process is running in the folder.
    """

    def __init__(self, folder, what="run", name=NAME):
        self._folder, self._what = epath.Path(folder), what
        self._path = self._folder / name
        self.nonce = uuid.uuid4().hex
        self._since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._closed, self._settled, self._lost = threading.Event(), threading.Event(), None
        self._thread = threading.Thread(target=self._beat, name="crate-jax lock", daemon=True)

    def __enter__(self):
        self._made = not is_remote(self._folder) and not self._folder.exists()
        make_folder(self._folder)
        owner = read_owner(self._path)
        if owner is not None and self._alive(owner):
            raise UserError(self._refusal(owner))
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.release()

    def release(self):
        """Gives the folder free; a second time does nothing."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join()
        try:
            if self._lost is None:
                self._path.unlink(missing_ok=True)
            if self._made and not any(self._folder.iterdir()):
                self._folder.rmdir()  # refused before anything was written
        except Exception as error:  # read-only or deleted meanwhile; it must not hide what ended the run
            logger.debug("the lock in %s stays: %s", self._folder, error)

    def check(self):
        """Raises if another process has taken the folder over.

        Raises:
            UserError: it has.
        """
        self._settled.wait(SETTLE_SECONDS + BEAT_SECONDS)
        if self._lost is not None:
            raise UserError(self._refusal(self._lost))

    def _refusal(self, owner):
        return (
            f"{self._folder} is in use by another {self._what} (process {owner.get('pid')} on "
            f"{owner.get('host')}, since {owner.get('since')}); let it end first, or take another folder."
        )

    def _write(self):
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": self._since, "nonce": self.nonce}
        mine |= {"machine": _machine(), "started": _started(os.getpid()), "beat": time.time()}
        write_once(self._path, json.dumps(mine) + "\n")

    def _alive(self, owner):
        """Whether the process that wrote a lock still holds it."""
        if owner.get("machine") and owner["machine"] == _machine():
            return owner.get("started") is not None and _started(owner.get("pid")) == owner["started"]
        beat = owner.get("beat")
        if not isinstance(beat, int | float) or time.time() - beat > OLD_SECONDS:
            return False
        logger.info(
            "%s was used by process %s on %s; looking for up to %.0f s whether it still is",
            *(self._folder, owner.get("pid"), owner.get("host"), SILENT_SECONDS),
        )
        deadline = time.monotonic() + SILENT_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(1.0, SILENT_SECONDS / 10))
            now = read_owner(self._path)
            if now is None:
                return False
            if now != owner:
                owner.update(now)
                return True
        return False

    def _beat(self):
        pause = SETTLE_SECONDS
        while not self._closed.wait(pause):
            try:
                owner = read_owner(self._path)
                if owner is not None and owner.get("nonce") != self.nonce:
                    self._lost = owner
                else:
                    self._write()
            except Exception as error:  # the folder's storage is away for a moment; saving will tell if it stays away
                logger.debug("no heartbeat in %s: %s", self._folder, error)
            self._settled.set()
            if self._lost is not None:
                return
            pause = BEAT_SECONDS
        self._settled.set()


def read_owner(path):
    """What a lock says of its owner; None where there is none.

    Args:
        path: of the lock's file, an `epath.Path`.

    Raises:
        UserError: the storage does not say.
    """

    def read():
        with contextlib.suppress(FileNotFoundError):  # given free between the two
            return path.read_bytes() if path.exists() else None

    text = retried(read, path)
    try:
        found = json.loads(text) if text else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
