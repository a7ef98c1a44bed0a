"""Work ahead in a background thread, and know how long the consumer waited all the same."""

import queue
import threading
import time


class Prefetched:
    """An iterator whose items are made ahead of time by another thread.

    What the thread raises is raised where the consumer would have got the item.

    Attributes:
        wait_seconds: time that `next` has waited so far.
    """

    def __init__(self, items, depth):
        """Starts at once.

        Args:
            items: an iterator, used by the other thread only.
            depth: items kept ready.
        """
        self.wait_seconds = 0.0
        self._ready = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_fill, args=(items, self._ready, self._stop), name="crate-jax data", daemon=True
        )
        self._thread.start()

    def __iter__(self):
        return self

    def __next__(self):
        if self._stop.is_set():
            raise StopIteration
        begun = time.perf_counter()
        item, error = self._ready.get()
        self.wait_seconds += time.perf_counter() - begun
        if error is not None:
            self._stop.set()
            raise error
        return item

    def close(self):
        """Ends the thread and forgets what it made; may be called twice."""
        self._stop.set()
        while True:
            try:
                self._ready.get_nowait()
            except queue.Empty:
                break
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=30)

    def __del__(self):
        self._stop.set()


def _fill(items, ready, stop):
    """The thread's work; holds no reference to the iterator object, so that one left behind can be collected."""

    def put(entry):
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return
            except queue.Full:
                continue

    try:
        for item in items:
            put((item, None))
            if stop.is_set():
                break
        else:
            put((None, StopIteration()))
    except BaseException as error:  # whatever it is, the consumer must not wait for ever
        put((None, error))
    finally:
        if hasattr(items, "close"):
            items.close()
