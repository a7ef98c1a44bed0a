"""Compiled programs are kept in the folder of a run, so that the same command starts sooner the next time."""

from etils import epath

FOLDER = "compiled"
FEWEST_SECONDS = 0.2  # of compilation; what took less is compiled again


_ours = set()


def keep_compiled(folder):
    """Keeps compiled programs in `folder/compiled`; a cache that is set already stays, unless its run was deleted.

    Args:
        folder: of a run or of results, local or in an object store.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    now = jax.config.jax_compilation_cache_dir
    if now is None or (now in _ours and not epath.Path(now).exists()):
        compilation_cache.reset_cache()
        _ours.add(str(epath.Path(folder) / FOLDER))
        jax.config.update("jax_compilation_cache_dir", str(epath.Path(folder) / FOLDER))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", FEWEST_SECONDS)


def shared_cache(folder):
    """Environment of child processes that are to share `folder/compiled`: a dictionary."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(epath.Path(folder) / FOLDER),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(FEWEST_SECONDS),
    }
