"""The network's tensors within what training scripts save: wrappers, prefixes, and things that are no parameters.

{"model": {...}}, {"state_dict": {...}}, {"module": {...}}, {"model_ema": {...}}, ...   the inner dictionary
module., model., backbone., encoder., student., ...        a prefix of the network's own tensors is taken off
_orig_mod, _fsdp_wrapped_module, ...                       what torch.compile and FSDP put into names
..._extra_state, num_batches_tracked                       left out
head.0.running_mean, head.1.weight                         MAE's linear probe, folded into one head
"""

import json
import logging

import numpy as np

from crate_jax.errors import UserError

# the first that is there is read: the network itself before its running mean
WRAPPERS = (
    "model", "state_dict", "net", "network", "module", "model_state_dict", "model_state", "params", "weights",
    "student", "backbone", "encoder", "model_ema", "state_dict_ema", "ema_state_dict", "ema", "teacher",
)  # fmt: skip
OURS = "crate_jax"  # the entry that says which network it is, in a file that we wrote
NO_NETWORK = ("optim", "lr_", "sched", "scaler", "amp", "rng", "callbacks", "loops", "args", "config", "hyper")
IN_NAMES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
ANCHORS = ("patch_embed.proj.weight", "to_patch_embedding.2.weight")  # every family has exactly one of these
COPIES = ("ema", "teacher", "momentum", "target", "averaged")
PROBE_EPSILON = 1e-6  # of the batch norm before MAE's linear probe


def state_of(content, path):
    """The state dict in what a PyTorch file holds.

    Args:
        content: what `torch.load` gave.
        path: of the file, for errors.

    Returns:
        ({name: tensor or array}, description of ours or {}).

    Raises:
        UserError: there is none, there are several, or it holds something else.
    """
    description = {}
    while isinstance(content, dict):
        description = description or description_of(content.get(OURS), path)
        inner = [key for key in content if _is_wrapper(key) and _holds_tensors(content[key])]
        if not inner:
            break
        known = [key for key in WRAPPERS if key in inner]
        if not known and len(inner) > 1:
            raise UserError(f"{path} holds several state dicts ({', '.join(inner)}); save the one that is meant alone.")
        if len(inner) > 1:
            logging.warning("%s holds %s; %s is read.", path, ", ".join(inner), known[0])
        content = content[known[0] if known else inner[0]]
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: a state dict was expected, not {type(content).__name__}.")
    for name, value in content.items():
        if not isinstance(name, str) or not (_is_array(value) or _is_left_out(name)):
            raise UserError(f"{path}: {name!r} is {type(value).__name__}, not a tensor; this is no state dict.")
    return content, description


def _is_wrapper(key):
    return isinstance(key, str) and not key.lower().startswith(NO_NETWORK)


def _is_array(value):
    return hasattr(value, "shape") and hasattr(value, "dtype") and not np.isscalar(value)


def _holds_tensors(value, depth=3):
    if not isinstance(value, dict) or not depth:
        return False
    return any(_is_array(one) or _holds_tensors(one, depth - 1) for one in value.values())


def _is_left_out(name):
    return name.endswith(("_extra_state", "num_batches_tracked"))


def description_of(text, path):
    """What a file of ours says of its network; {} of a file of others, even where it uses the same key."""
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, TypeError):
        found = None
    if found == {}:
        return {}
    is_ours = isinstance(found, dict) and isinstance(found.get("name"), str)
    if not is_ours or not isinstance(found.get("overrides"), dict):
        logging.warning("%s: what it says under %r is not ours; the network is recognised by its tensors.", path, OURS)
        return {}
    return found


def bare_names(names, path):
    """What each tensor of the network is called without prefixes.

    Args:
        names: of the file's tensors.
        path: of the file, for errors.

    Returns:
        {bare name: name in the file}.

    Raises:
        UserError: two networks, or two tensors of one name.
    """
    short = {name: _without_wrappers(name) for name in names if not _is_left_out(name)}
    prefix, dropped = _prefix(short.values(), path)
    bare = {}
    for name, one in short.items():
        if any(one.startswith(other) for other in dropped):
            continue
        one = one.removeprefix(prefix)
        if one in bare:
            raise UserError(f"{path}: tensors {bare[one]} and {name} have one meaning; save the network alone.")
        bare[one] = name
    return bare


def _without_wrappers(name):
    parts = [part for part in name.split(".") if part not in IN_NAMES]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def _prefix(names, path):
    """(prefix of the network's tensors, prefixes of its copies)."""
    found = {name[: -len(anchor)] for name in names for anchor in ANCHORS if f".{name}".endswith(f".{anchor}")}
    if len(found) > 1:
        first = {prefix for prefix in found if not any(copy in prefix.lower() for copy in COPIES)}
        if len(first) != 1:
            named = ", ".join(sorted(prefix or "no prefix" for prefix in found))
            raise UserError(f"{path} holds several networks ({named}); save the one that is meant alone.")
        (chosen,) = first
        logging.warning("%s holds several networks; that under %r is read.", path, chosen)
        return chosen, [prefix for prefix in found - first if prefix]
    return (found.pop() if found else ""), []


PROBE = {
    "mean": "head.0.running_mean",
    "variance": "head.0.running_var",
    "weight": "head.1.weight",
    "bias": "head.1.bias",
}


class FoldedProbe:
    """A file of MAE's linear probe as one of a classifier: batch norm and head are one affine map.

    Attributes:
        path, shapes, description: as of `tensor_files.Source`.
    """

    def __init__(self, source):
        self.source, self.path, self.description = source, source.path, source.description
        self.shapes = {name: shape for name, shape in source.shapes.items() if name not in PROBE.values()}
        self.shapes["head.weight"], self.shapes["head.bias"] = (source.shapes[PROBE[key]] for key in ("weight", "bias"))

    def read(self, name):
        """One tensor, as float32."""
        if name not in ("head.weight", "head.bias"):
            return self.source.read(name)
        mean_D, variance_D, weight_CxD, bias_C = (self.source.read(PROBE[key]).astype(np.float64) for key in PROBE)
        weight_CxD = weight_CxD / np.sqrt(variance_D + PROBE_EPSILON)
        return (weight_CxD if name == "head.weight" else bias_C - weight_CxD @ mean_D).astype(np.float32)


def folded(source):
    """The source itself, or as `FoldedProbe` where it is one."""
    return FoldedProbe(source) if all(name in source.shapes for name in PROBE.values()) else source
