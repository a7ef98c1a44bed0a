"""Files that cannot be read are no corrupt pictures: retried for a while, then the run ends with the file's name.

Leaving them out would train on other data than the run says, differently in each worker and host. What can be read but
not decoded is corrupt, and is replaced and counted (`rows`).
"""

import contextlib
import errno
import logging
import re
import resource
import time

from crate_jax.errors import LOST_HOST, UserError, first_line
from crate_jax.storage import is_remote

WAITS = (0.1, 0.5, 2, 8, 20)  # seconds before each further attempt
LASTING = frozenset((errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENODEV))
REFUSED = re.compile("PermissionDenied|Forbidden")  # in the errors of TensorFlow, gcsfs and google-cloud-storage


class Unreachable(UserError):
    """Storage that did not answer for as long as it was asked; launchers run the command again."""

    exit_code = LOST_HOST


def retried(read, path):
    """What `read()` returns, after as many attempts as that takes.

    Args:
        read: a function; OSError (for a remote path any exception) means that the file could not be read.
        path: for the message.

    Raises:
        UserError: naming the file, where waiting cannot help.
        Unreachable: naming the file, where no attempt succeeded.
    """
    kinds = Exception if is_remote(path) else OSError  # Google's and TensorFlow's errors are no OSError
    for wait in (*WAITS, None):
        try:
            return read()
        except UserError:
            raise
        except kinds as error:
            reason, number = first_line(error), getattr(error, "errno", None)
            lasting = isinstance(error, FileNotFoundError) or number in LASTING
            refused = lasting or REFUSED.search(f"{type(error).__name__} {reason}")
            # ArrayRecord's errors have no number: a local file that it cannot read is cut off
            away = is_remote(path) or number is not None or isinstance(error, TimeoutError)
            kind = Unreachable if away and not refused else UserError
            if wait is None or lasting:
                break
            logging.warning("%s cannot be read (%s); trying again in %g s", path, reason, wait)
            time.sleep(wait)
    raise kind(
        f"{path} cannot be read: {reason}. Mend the disk, network or permission (or take the file out of the data "
        "set, which makes it another one), and run the same command again."
    )


def raise_file_limit():
    """Lifts the soft limit of open files to the hard one, which it returns: shards may be more than the usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # a system that forbids it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit if limit != resource.RLIM_INFINITY else 2**20
