"""Which errors are the storage's, and which of them pass: one rule for data, checkpoints, logs and results.

    503, 429, EIO, time-outs, ...          tried again; then `Unreachable`, exit code 175: launchers run it again
    403, 404, a full or read-only disk     `UserError`, exit code 1: a person has to mend it

Reads and whole writes are tried for half a minute (`retried`), beside what the libraries of object stores do.
"""

import contextlib
import errno
import logging
import os
import re
import time
from typing import NamedTuple

from crate_jax.errors import LOST_HOST, UserError, first_line

WAITS = (0.1, 0.5, 2, 8, 20)  # seconds before each further attempt
PACKAGES = {"gcsfs": "'crate-jax[gcs]'", "s3fs": "s3fs", "adlfs": "adlfs"}  # libraries of fsspec's, and what has them
LIBRARIES = re.compile(
    r"(tensorflow|gcsfs|aiohttp|requests|urllib3|ssl|botocore|azure|google\.(api_core|auth|cloud|resumable_media))\b"
)
_ANSWERS = "see that the storage answers"
_SPACE = "the disk is full: free space there"
_RIGHTS = "see that it can be read and written"
_NETWORK = "EAGAIN EBUSY ETIMEDOUT ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ECONNREFUSED EHOSTDOWN "
_NETWORK += "EHOSTUNREACH ENOTCONN EREMOTEIO ENOLCK"
PASSING = dict.fromkeys((getattr(errno, name) for name in _NETWORK.split() if hasattr(errno, name)), _ANSWERS) | {
    errno.EIO: "see that the disk answers",
    errno.ESTALE: "mount the network file system again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
}
LASTING = {  # what a person does about it
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "raise the limit of the size of a file (ulimit -f)",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.ENAMETOOLONG: "take a shorter name",
    errno.ELOOP: "mend the links",
    errno.EISDIR: "move the folder of this name away",
    errno.ENOTDIR: "move the file of this name away",
    errno.ENOENT: None,
    errno.ENODEV: None,
}
# in the names and words of TensorFlow, TensorStore, gcsfs and google-cloud-storage
REFUSED = re.compile(
    r"PermissionDenied|PERMISSION_DENIED|Forbidden|Unauth|UNAUTHENTICATED|NotFound|NOT_FOUND|does not exist|BadRequest|"
    r"InvalidArgument|FailedPrecondition|Unimplemented|DefaultCredentials|DataLoss|"
    r"(response code|status|status code)\D{0,3}4(?!08|29)\d\d\b"
)
BUSY = re.compile(
    r"unavailable|deadline.exceeded|resource.exhausted|too many requests|timed out|\b(408|429|50[0-9])\b", re.I
)
MEMORY = re.compile(r"(Jax|Xla)RuntimeError: .*(RESOURCE_EXHAUSTED|[Oo]ut of memory)", re.S)
TENSORSTORE = re.compile("UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|ABORTED")


class Unreachable(UserError):
    """Storage that did not answer for as long as it was asked; launchers run the command again."""

    exit_code = LOST_HOST


class Failure(NamedTuple):
    """An error of storage."""

    words: str  # a line, the storage's own
    passes: bool | None = None  # None: it does not say
    advice: str | None = None  # what a person does about it
    number: int | None = None  # of `errno`

    def told(self, what=""):
        """An `Unreachable` or `UserError`.

        Args:
            what: could not be done, such as "--workdir=D cannot be written".
        """
        advice = self.advice or (_ANSWERS if self.passes else "see that it is there, and can be read and written")
        kind = Unreachable if self.passes else UserError
        return kind(f"{what}{': ' if what else ''}{self.words}; {advice}, and run the same command again.")


def storage_failure(error):
    """A `Failure`; None for an exception that is about something else.

    TensorFlow, fsspec and Google's libraries raise errors of their own, which are no `OSError`; TensorStore a
    ValueError that begins with a status; fsspec an ImportError where the library of a store is missing.
    """
    text, words, known = str(error), first_line(error)[:300], PASSING | LASTING
    for library, package in PACKAGES.items():
        if isinstance(error, ImportError) and library in text:
            return Failure(f"this needs {library}", False, f"pip install {package}")
    of_library = LIBRARIES.match(type(error).__module__) or (isinstance(error, ValueError) and TENSORSTORE.match(text))
    if not (of_library or isinstance(error, OSError) or "os_error_code=" in text):
        return None
    number = None if type(error).__module__ == "ssl" else getattr(error, "errno", None)
    if number not in known:  # ArrayRecord and TensorStore say it in words
        number = next((number for number in known if os.strerror(number) in text), None)
        words = os.strerror(number) if number else words
    answer = getattr(getattr(error, "response", error), "status_code", None)
    answer = answer or getattr(error, "code", None) or getattr(error, "status", None)
    refused = isinstance(answer, int) and 400 <= answer < 500 and answer not in (408, 429)
    refused = refused or REFUSED.search(f"{type(error).__name__} {text}") is not None
    if number in known:
        passes = number in PASSING
    elif refused or of_library or isinstance(error, TimeoutError | ConnectionError) or BUSY.search(text):
        passes = not refused
    else:
        passes = None
    return Failure(words, passes, known.get(number), number)


@contextlib.contextmanager
def user_errors(what):
    """Turns errors of storage into a sentence.

    Args:
        what: could not be done, such as "--workdir=D cannot be written".

    Raises:
        UserError: with the storage's own words; `Unreachable` where they say that it passes.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        failure = storage_failure(error)
        if failure is None:
            raise
        raise failure.told(what) from error


def retried(work, path, what="read"):
    """What `work()` returns, after as many attempts as that takes.

    Args:
        work: a function that may be called again after an error.
        path: for the message.
        what: could not be done to it.

    Raises:
        UserError: naming the file, where waiting cannot help, or no attempt succeeded.
        Unreachable: naming the file, where the storage did not answer.
    """
    for wait in (*WAITS, None):
        try:
            return work()
        except UserError:
            raise
        except Exception as error:
            failure, cause = storage_failure(error), error
            if failure is None and "://" not in str(path):
                raise
            failure = failure or Failure(first_line(error)[:300])
            if wait is None or failure.passes is False:
                break
            logging.warning("%s cannot be %s (%s); trying again in %g s", path, what, failure.words, wait)
            time.sleep(wait)
    raise failure.told(f"{path} cannot be {what}") from cause


def explained(error):
    """An exception that nobody expected, as a `UserError`: of storage, or for want of memory; None for any other.

    The latter may be a fault of this package.

    Args:
        error: what ends the program.
    """
    if isinstance(error, UserError):
        return error
    if isinstance(error, MemoryError) or MEMORY.search(f"{type(error).__name__}: {error}"):
        return UserError(
            f"there is too little memory ({first_line(error)[:300]}); in a training --config.optimizer.accumulate=2 "
            "(with equal results), --config.model.remat=names or a smaller --config.batch_size need less."
        )
    failure = storage_failure(error)
    if failure is None or failure.passes is None or failure.number in (errno.ENOENT, errno.ENODEV):
        return None
    return failure.told("" if isinstance(error, OSError) else "an object store failed")
