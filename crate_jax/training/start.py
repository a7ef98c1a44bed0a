"""What a run begins with instead of fresh parameters: those of another run, or of a checkpoint file."""

import logging

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.config import model_overrides
from crate_jax.config_schema import LEAVES
from crate_jax.errors import UserError
from crate_jax.interop.checkpoint_file import open_for
from crate_jax.interop.torch_checkpoint import read_params
from crate_jax.models.registry import boxed_shapes, digest_of
from crate_jax.processes import same_on_all_hosts
from crate_jax.storage import absolute, exists
from crate_jax.training.run_folder import RunFolder, load_step

logger = logging.getLogger(__name__)

_OF_THE_FUNCTION = [  # settings that parameters of one shape leave open
    name.removeprefix("model.") for name, leaf in LEAVES.items()
    if name.startswith("model.") and not leaf.resume and name not in ("model.name", "model.dtype")
]  # fmt: skip


def starting_params(source, config, model):
    """Parameters for a network like `model`, on the host.

    Args:
        source: a workdir (its newest checkpoint; the moving average where it keeps one) or a checkpoint file or folder.
        config: of the run that begins; its `model.*` says what a file does not hold.
        model: the network.

    Returns:
        A tree with the structure of the network's parameters.

    Raises:
        UserError: nothing there, a network with other parameters, or other ones on another host.
    """
    path = absolute(source)
    is_run = exists(RunFolder(path).checkpoints, f"init_from={source}")
    if not is_run and not path.exists():
        raise UserError(f"init_from={source}: there is no such workdir or checkpoint file.")
    if is_run:
        other, params = load_step(path)[1]
    else:
        opened = open_for(path, model_overrides(config))
        other, params = opened.model, read_params(opened)
    theirs, ours = (
        {name: leaf.shape for name, leaf in flax.traverse_util.flatten_dict(one, sep="/").items()}
        for one in (params, nn.meta.unbox(boxed_shapes(model)))
    )
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise UserError(
                f"init_from={source}: its {type(other).__name__} does not fit {config.model.name}: {name} has shape "
                f"{theirs.get(name)} there, {ours.get(name)} here; give this run the model.* of that one."
            )
    both = {name: (getattr(other, name, None), getattr(model, name, None)) for name in _OF_THE_FUNCTION}
    if differ := [f"model.{name}={old} there, {new} here" for name, (old, new) in both.items() if old != new]:
        logger.warning(
            "init_from=%s was trained as another function of these parameters: %s", source, "; ".join(differ)
        )
    params = jax.device_get(params)
    same_on_all_hosts(
        {"parameters": digest_of(params)},
        f"init_from={source} holds other parameters on this host than on host 0; give every host the same file.",
    )
    return params


def with_params(state, params, abstract):
    """A state at step 0 that begins with other parameters; the moving average begins with them.

    They are on the host or on one device, or the state's own, which may be sharded over several hosts.
    """

    def placed(leaf, wanted):
        here = getattr(leaf, "sharding", None) == wanted.sharding
        return leaf if here else jax.device_put(np.asarray(leaf), wanted.sharding)

    params = jax.tree.map(placed, params, abstract.params)
    return state.replace(params=params, ema=None if state.ema is None else jax.tree.map(jnp.copy, params))
