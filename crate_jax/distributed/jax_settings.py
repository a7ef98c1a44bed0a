"""JAX settings that would change a run's numbers or break it, refused before anything is computed."""

from crate_jax.errors import UserError

_DRAWS = "initial values, masks and stochastic depth of a seed would be others"
_IMPLICIT = "numbers such as the step's are transferred implicitly"
_UNGUARDED = (None, "allow", "log", "log_explicit")


def check_jax_settings():
    """Refuses other random numbers, disabled compilation, strict promotion and guarded transfers, however set.

    Raises:
        UserError: naming the setting and how to unset it.
    """
    import jax

    for name, allowed, why in (
        ("jax_enable_x64", (False,), _DRAWS),
        ("jax_default_prng_impl", ("threefry2x32",), _DRAWS),
        ("jax_threefry_partitionable", (True,), _DRAWS),
        ("jax_random_seed_offset", (0,), _DRAWS),
        ("jax_disable_jit", (False,), "the train step is a compiled program"),
        ("jax_no_tracing", (False,), "the train step is a compiled program"),
        ("jax_no_execution", (False,), "nothing would be computed"),
        ("jax_numpy_dtype_promotion", ("standard",), "bfloat16 and float32 are combined implicitly"),
        ("jax_numpy_rank_promotion", ("allow", "warn"), "a bias is broadcast implicitly"),
        ("jax_transfer_guard", _UNGUARDED, _IMPLICIT),
        ("jax_transfer_guard_host_to_device", _UNGUARDED, _IMPLICIT),
        ("jax_transfer_guard_device_to_host", _UNGUARDED, "metrics are read from the device"),
        ("jax_transfer_guard_device_to_device", _UNGUARDED, "batches are laid out over the mesh"),
    ):
        value = getattr(jax.config, name, allowed[0])
        if value not in allowed:
            raise UserError(
                f"{name.upper()}={value} is set, and {why}; unset this environment variable, or call "
                f'jax.config.update("{name}", {allowed[0]!r}) first.'
            )
