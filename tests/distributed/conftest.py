"""The tiny run of tests/training, here as well."""

from tests.training.conftest import digits, tiny  # noqa: F401
