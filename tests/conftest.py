"""What every test shares: the CPU, and one compilation cache for the whole run."""

import os
import pathlib
import tempfile

from tests.compiling import QUICK

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if QUICK not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()  # the later of two flags counts
# Children (tests that kill, restart and count devices) inherit it too, so nothing is compiled twice in a run.
_CACHE = (
    pathlib.Path(tempfile.gettempdir()) / f"crate_jax_tests_{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import pytest  # noqa: E402


def pytest_sessionfinish(session):
    """The last one out removes the cache."""
    import shutil

    if not hasattr(session.config, "workerinput"):
        shutil.rmtree(_CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def data_folder():
    """Golden files."""
    return pathlib.Path(__file__).parent / "data"
