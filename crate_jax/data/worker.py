"""Rows made by other processes, for hosts with more cores than one interpreter can keep busy.

Decoding and resizing release the interpreter's lock, but a tenth of the work holds it, so some ten threads are as many
as one process can use. A worker is plain `python -m crate_jax.data.worker`: nothing is forked, no module of the caller
is imported again, and it ends when its parent does, however that ends, because its standard input ends then.

A request is a pickled (index_B, epoch_B, shape); the answer a pickled (label_B, valid_B, damaged), followed by the
bytes of the rows, which are read straight into their place; or a pickled exception.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys

import numpy as np

from crate_jax.errors import UserError


class WorkerProcesses:
    """Makes rows as a RowReader does, one call for each process at a time; may be called by as many threads.

    Attributes:
        source, recipe, replace: of the reader.
    """

    def __init__(self, reader, count):
        """Starts the processes.

        Args:
            reader: RowReader; it is sent to each of them.
            count: processes.
        """
        self.source, self.recipe, self.replace = reader.source, reader.recipe, reader.replace
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "crate_jax.data.worker"]
        message = pickle.dumps(reader)
        self._all, self._free = [], queue.SimpleQueue()
        for _ in range(count):
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            process.stdin.write(message)
            process.stdin.flush()
            self._all.append(process)
            self._free.put(process)

    def rows(self, index_B, epoch_B, images_BxHxWxC):
        """See RowReader.rows."""
        process = self._free.get()
        try:
            pickle.dump((np.asarray(index_B), np.asarray(epoch_B), images_BxHxWxC.shape), process.stdin)
            process.stdin.flush()
            answer = pickle.load(process.stdout)
            if isinstance(answer, Exception):
                raise answer
            target = memoryview(images_BxHxWxC).cast("B")
            if process.stdout.readinto(target) != len(target):
                raise EOFError
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise UserError(
                f"a process that prepares images ended (exit code {process.wait()}), perhaps for want of memory; "
                "choose fewer data.num_workers, or data.worker_processes=False."
            ) from None
        finally:
            self._free.put(process)
        return answer

    def close(self):
        """Ends the processes."""
        for process in self._all:
            with contextlib.suppress(BrokenPipeError):  # it ended already
                process.stdin.close()
        for process in self._all:
            process.stdout.close()
            process.wait()


def serve(requests, answers):
    """A worker's life: the reader first, then requests until they end.

    Args:
        requests, answers: binary files.
    """
    reader = pickle.load(requests)
    while True:
        try:
            index_B, epoch_B, shape = pickle.load(requests)
        except EOFError:
            return
        images_BxHxWxC = np.zeros(shape, np.uint8)
        try:
            pickle.dump(reader.rows(index_B, epoch_B, images_BxHxWxC), answers)
            answers.write(memoryview(images_BxHxWxC).cast("B"))
        except Exception as error:  # it is the parent who tells the user
            pickle.dump(error, answers)
        answers.flush()


def main():
    """The process: its real standard output carries answers, so whatever prints goes to standard error."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group; the parent decides when to end
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        serve(sys.stdin.buffer, answers)
    except BrokenPipeError:
        os._exit(0)  # nobody reads any more; closing the pipe would raise again


if __name__ == "__main__":
    main()
