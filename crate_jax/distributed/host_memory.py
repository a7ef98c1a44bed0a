"""A step's memory, where there is nothing but a CPU: large pages, and kept from one step to the next.

XLA's CPU backend asks for the memory of a step anew at every step. glibc gives what is freed back to the kernel, which
then hands out the next step's in pages of 4 KiB, each filled with zeros first: hundreds of thousands a step, up to two
fifths of its time (`benchmarks/README.md`). Three of glibc's settings change that. It reads them when a program starts,
so the program starts again, as the same process.
"""

import os
import platform
import sys

VARIABLE = "GLIBC_TUNABLES"
SETTINGS = {
    "hugetlb": 1,  # ask for pages of 2 MiB, where the kernel gives them when asked
    "mmap_threshold": 2**30,  # bytes; what is smaller comes from memory that was used before
    "trim_threshold": 2**34,  # bytes that may lie idle
}
_FIRST_GLIBC = (2, 35)  # older ones know no large pages, and refuse such a threshold


def large_pages():
    """The environment variable's value."""
    return ":".join(f"glibc.malloc.{name}={value}" for name, value in SETTINGS.items())


def glibc_knows_them():
    """Whether this Python runs on a C library that has these settings."""
    library, version = platform.libc_ver()
    return library == "glibc" and tuple(int(part) for part in version.split(".")[:2]) >= _FIRST_GLIBC


def start_again_with_large_pages():
    """Replaces this program by the same command line with the settings in its environment; children inherit them.

    Nothing happens where they are there already, where a person has set that variable (to anything), where they mean
    nothing, and under a debugger, which would lose the program. Must come before anything is opened.
    """
    debugged = sys.gettrace() is not None or "pydevd" in sys.modules
    if debugged or VARIABLE in os.environ or sys.platform != "linux" or not glibc_knows_them():
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, VARIABLE: large_pages()})
