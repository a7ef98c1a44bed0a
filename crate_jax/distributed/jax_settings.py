"""JAX settings that would change a run's numbers or break it, refused before anything is computed."""

from crate_jax.errors import UserError


def check_jax_settings():
    """Refuses 64-bit draws, disabled compilation and guarded transfers, however they were set.

    Raises:
        UserError: naming the setting and how to unset it.
    """
    import jax

    for name, wrong, why in (
        ("jax_enable_x64", bool, "initial values, masks and stochastic depth of a seed would be others"),
        ("jax_disable_jit", bool, "the train step is a compiled program"),
        ("jax_transfer_guard", _guards, "numbers such as the step's are transferred implicitly"),
        ("jax_transfer_guard_host_to_device", _guards, "numbers such as the step's are transferred implicitly"),
        ("jax_transfer_guard_device_to_host", _guards, "metrics are read from the device"),
        ("jax_transfer_guard_device_to_device", _guards, "batches are laid out over the mesh"),
    ):
        value = getattr(jax.config, name, None)
        if wrong(value):
            raise UserError(
                f"{name.upper()}={value} is set, and {why}; unset this environment variable, or call "
                f'jax.config.update("{name}", {"None" if wrong is _guards else "False"}) first.'
            )


def _guards(value):
    return value is not None and str(value).startswith("disallow")
