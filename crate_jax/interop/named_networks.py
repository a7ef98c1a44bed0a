"""Trained networks by name: those that ship with the package, and `hf://org/name[@revision]`."""

import os
import pathlib

from crate_jax.errors import UserError, first_line
from crate_jax.extras import library

NETWORKS = pathlib.Path(__file__).parent.parent / "networks"
HUB = "hf://"


def list_networks() -> list[str]:
    """Names of the trained networks that ship with the package."""
    return sorted(folder.parent.name for folder in NETWORKS.glob("*/model.json"))


def located(source):
    """Where a network is: the folder of a name, a download of the hub's; any other text as it is.

    Args:
        source: a path, or a name. A file or folder of this name comes first.

    Raises:
        UserError: the hub has no such repository, or there is no huggingface_hub.
    """
    text = os.fspath(source)
    if text.startswith(HUB):
        return downloaded(text)
    return str(NETWORKS / text) if text in list_networks() and not os.path.exists(text) else text


def downloaded(address):
    """The local folder of "hf://org/name[@revision]".

    Raises:
        UserError: no such repository, or no huggingface_hub.
    """
    name, _, revision = address.removeprefix(HUB).strip("/").partition("@")
    if name.count("/") != 1:
        raise UserError(f"{address}: write hf://ORG/NAME or hf://ORG/NAME@REVISION.")
    try:
        hub, endpoint = library("huggingface_hub", "hub", "hf://"), os.environ.get("HF_ENDPOINT")
        return hub.snapshot_download(name, revision=revision or None, endpoint=endpoint)
    except (OSError, ValueError) as error:  # the hub's errors are kinds of these
        raise UserError(f"{address}: {first_line(error)}") from error
