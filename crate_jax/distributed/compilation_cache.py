"""Compiled programs are kept in the folder of a run, so that the same command starts sooner the next time."""

FEWEST_SECONDS = 0.2  # of compilation; what took less is compiled anew


def keep_compiled(folder):
    """Keeps compiled programs in a folder; a cache that is set already stays.

    Args:
        folder: local or in an object store; made when the first program is kept.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", FEWEST_SECONDS)


def shared_cache(folder):
    """Environment of child processes that are to share one: a dictionary."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(FEWEST_SECONDS),
    }
