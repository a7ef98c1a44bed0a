"""Kernels for one kind of device, each equal to a plain operator of the floor above in value and gradient."""
