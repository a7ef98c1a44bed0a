"""Compiled programs are kept in the folder of a run, so that the same command starts sooner the next time."""

import contextlib
import zlib

from etils import epath

from crate_jax.storage import is_remote

FOLDER = "compiled"
ZSTANDARD = b"\x28\xb5\x2f\xfd"  # how what JAX compresses by another library begins
FEWEST_SECONDS = 0.2  # of compilation; what took less is compiled again


_ours: set[str] = set()


def keep_compiled(folder):
    """Keeps compiled programs in `folder/compiled`; a cache that is set already stays, unless its run was deleted.

    Args:
        folder: of a run or of results, local or in an object store.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    now = jax.config.jax_compilation_cache_dir
    if now is None or (now in _ours and not epath.Path(now).exists()):
        kept = epath.Path(folder) / FOLDER
        if not is_remote(kept) and kept.is_dir():
            _remove_cut(kept)
        compilation_cache.reset_cache()
        _ours.add(str(kept))
        jax.config.update("jax_compilation_cache_dir", str(kept))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", FEWEST_SECONDS)


def _remove_cut(folder):
    """Programs whose writing was cut off: JAX would warn of them at every start, and not write them again."""
    for path in folder.glob("*-cache"):
        with contextlib.suppress(OSError):  # of a run that may only be read; or removed meanwhile
            if _is_cut(path.read_bytes()):
                path.unlink()


def _is_cut(content):
    reader = zlib.decompressobj()
    with contextlib.suppress(zlib.error):
        reader.decompress(content)
    return not reader.eof and not content.startswith(ZSTANDARD)


def shared_cache(folder):
    """Environment of child processes that are to share `folder/compiled`: a dictionary."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(epath.Path(folder) / FOLDER),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(FEWEST_SECONDS),
    }
