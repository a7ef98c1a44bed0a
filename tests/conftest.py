"""What every test shares: one thread and one device of the CPU, and one compilation cache for the whole run."""

import gc
import os
import pathlib
import tempfile

from tests.compiling import DEVICES, QUICK, with_devices

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if QUICK not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()  # the later of two flags counts
if DEVICES not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] = with_devices(1)  # else `pretrain` simulates one a core, for all tests after it
# Two workers fill two cores: pools of threads of XLA (NPROC) and of BLAS would wait for each other.
for _name in ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# Children (tests that kill, restart and count devices) inherit it too, so nothing is compiled twice in a run.
_CACHE = (
    pathlib.Path(tempfile.gettempdir()) / f"crate_jax_tests_{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Tracing makes many small objects: searches for cycles after every 700 of them, through all modules now and then, were
# an eighth of the time of a tiny run whose programs were compiled before (3.7 s, 3.2 s without).
gc.set_threshold(100_000)

import pytest  # noqa: E402

# Begun first, so that no worker is left with a long one at the end (pytest -n 2 --no-loadscope-reorder).
LONGEST = (
    "test_notebooks", "test_crossings", "test_analyze", "test_pod", "test_commands", "test_killed_sweep",
    "test_normalised_tpu", "test_object_store", "test_start", "test_resume",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Long modules first."""
    place = {f"{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


def pytest_collection_finish():
    """What was imported stays: no search for cycles goes through it again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session):
    """The last one out removes the cache."""
    import shutil

    if not hasattr(session.config, "workerinput"):
        shutil.rmtree(_CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def has_tfds():
    """Whether TFDS can be imported; in Colab's GPU image it cannot, whose protobuf is older than its generated code."""
    from crate_jax.data.tfds_records import import_tfds
    from crate_jax.errors import UserError

    try:
        return bool(import_tfds())
    except UserError:
        return False


@pytest.fixture(scope="session")
def data_folder():
    """Golden files."""
    return pathlib.Path(__file__).parent / "data"
