"""Files that come inside installed Python packages, of which nothing needs to run."""

import importlib.util
import pathlib

from crate_jax.errors import UserError


def file_in(package, file, otherwise):
    """The path of a file of a package; UserError with the sentence `otherwise` where the package is missing."""
    found = importlib.util.find_spec(package)
    if found is None:
        raise UserError(otherwise)
    path = pathlib.Path(found.origin).parent / file
    if not path.exists():
        raise UserError(f"{path} is missing; install another version of the package {package}.")
    return path
