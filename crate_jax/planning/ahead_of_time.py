"""The very train step of `pretrain`, compiled for a pod by libtpu alone, with no chip at hand.

Shapes and shardings go in, a program comes out: what it keeps in memory, moves, and sends. One that does not fit is
refused by the compiler itself, which then says by how much.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import re
import time

from packaging.requirements import Requirement
from packaging.version import Version

from crate_jax.errors import UserError, first_line

_ENVIRONMENT = {  # libtpu requires these of a TPU's machine; nothing runs, so any will do
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
}
_GIB = 2.0**30


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the compiler says of a step.

    Attributes:
        topology: a `Topology`.
        program: a `training.program.Program` on its mesh.
        fits: in the memory of a chip.
        arguments, temporaries, peak: bytes of one chip in HBM, temporaries at the peak; of a program that does not fit
            only `peak` is known.
        capacity: bytes that the compiler allows.
        hbm_bytes: that one chip's operations read and write in a step, as XLA's cost analysis counts, or None: also
            what lies on the chip, copies of it several times, and the body of a loop over layers once.
        crossing_bytes: that cross HBM at least, or None: arguments and results once, temporaries in and out, by XLA's
            memory analysis.
        collectives: list of `Collective`.
        seconds: that compiling took.
        text: of the compiled program.
    """

    topology: object
    program: object
    fits: bool
    arguments: float | None
    temporaries: float | None
    peak: float | None
    capacity: float
    hbm_bytes: float | None
    crossing_bytes: float | None
    collectives: tuple
    seconds: float
    text: str = dataclasses.field(default="", repr=False)


def missing_compiler():
    """Why nothing can be compiled for a TPU here: a sentence, or None.

    A libtpu older than jax requires (Colab's TPU image has one) lacks functions that jaxlib calls to describe a slice:
    the process would end with a segmentation fault.
    """
    if importlib.util.find_spec("libtpu") is None:
        return (
            "compiling for a TPU needs libtpu, which is not installed: pip install 'crate-jax[tpu]' brings the one "
            "that belongs to this jax."
        )
    try:
        installed = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:  # a build of one's own
        return None
    needs = [one for one in map(Requirement, importlib.metadata.requires("jax") or []) if one.name == "libtpu"]
    if any(Version(installed) < Version(one.version.removesuffix(".*")) for wants in needs for one in wants.specifier):
        jax = importlib.metadata.version("jax")
        return (
            f"compiling for a TPU that is not there: libtpu {installed} is older than jax {jax} requires "
            f"({needs[0].name}{needs[0].specifier}); pip install 'jax[tpu]=={jax}', best in an environment of its own."
        )
    return None


def prepare_environment():
    """Tells jax and libtpu that there is no chip; to be called before jax is first used.

    Raises:
        UserError: libtpu is not installed, or too old for this jax.
    """
    if problem := missing_compiler():
        raise UserError(problem)
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def topology_devices(topology):
    """The devices of a pod that is not there.

    Args:
        topology: from `chips.find_topology`.

    Raises:
        UserError: libtpu knows no such slice, or does not belong to this jax.
    """
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **topology.options)
    except Exception as error:  # libtpu's and jax's kinds differ from version to version
        words = first_line(error)
        raise UserError(f"--topology={topology.name}: libtpu refuses it: {words[:300]}") from error
    return found.devices


def abstract_inputs(program):
    """(state, batch, seed) of the step as shapes; the batch is what `data.pipeline.train_batches` hands to it."""
    import jax
    import jax.numpy as jnp

    from crate_jax.distributed.sharding import batch_sharding, replicated
    from crate_jax.operators.patches import image_shape

    model, size, split = program.model, program.config.batch_size, batch_sharding(program.mesh)
    image = (size, *image_shape(model.image_size), model.channels)
    batch = {name: jax.ShapeDtypeStruct((size,), jnp.int32, sharding=split) for name in ("label", "index", "epoch")}
    batch["image"] = jax.ShapeDtypeStruct(image, jnp.uint8, sharding=split)
    return program.abstract, batch, jax.ShapeDtypeStruct((), jnp.uint32, sharding=replicated(program.mesh))


def plan(config, topology, num_examples):
    """Compiles a config's train step for a topology.

    Args:
        config: a checked config.
        topology: from `chips.find_topology`.
        num_examples: of the training split.

    Returns:
        A `Plan`.

    Raises:
        UserError: settings that do not go together, or with the topology.
    """
    from crate_jax.distributed.mesh import make_mesh
    from crate_jax.planning.collectives import collectives
    from crate_jax.training.program import build_program

    devices = topology_devices(topology)
    mesh = make_mesh(config.mesh, devices)
    program = build_program(config, num_examples, mesh=mesh)
    begin = time.perf_counter()
    try:
        compiled = program.step.lower(*abstract_inputs(program)).compile()
    except Exception as error:  # what refuses a program has a kind of its own in every version
        used, capacity = refusal(str(error))
        if used is None:
            raise
        seconds = time.perf_counter() - begin
        return Plan(topology, program, False, None, None, used, capacity, None, None, (), seconds)
    seconds, memory = time.perf_counter() - begin, compiled.memory_analysis()
    moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
    lasting = moved - memory.alias_size_in_bytes
    # temp_size counts what lies on the chip (VMEM) as well: more than the peak of a small step
    peak = getattr(memory, "peak_memory_in_bytes", 0) or lasting + memory.temp_size_in_bytes
    temporaries = peak - lasting
    return Plan(
        topology,
        program,
        True,
        memory.argument_size_in_bytes,
        temporaries,
        peak,
        topology.chip.hbm_bytes,
        compiled.cost_analysis()["bytes accessed"],
        moved + 2 * temporaries,
        tuple(collectives(text := compiled.as_text())),
        seconds,
        text,
    )


def refusal(message):
    """(bytes used, bytes there are) as the compiler's refusal names them; (None, None) for any other message."""
    found = re.search(r"[Uu]sed ([0-9.]+)([KMGT]?) of ([0-9.]+)([KMGT]?) hbm", message) or re.search(
        r"total memory required .*?\(([0-9.]+)([KMGT]?)\) exceeds available HBM \(([0-9.]+)([KMGT]?)\)", message
    )
    if not found:
        return None, None
    units = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": _GIB, "T": 2.0**40}
    return float(found[1]) * units[found[2]], float(found[3]) * units[found[4]]


def unsplit_parameters(program):
    """(name, bytes) of parameters that every chip holds whole though the mesh has an fsdp axis, largest first."""
    import jax

    if program.mesh.shape["fsdp"] == 1:
        return []
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(program.abstract.params)[0]:
        if "fsdp" not in str(leaf.sharding.spec):
            found.append(("/".join(key.key for key in path), leaf.size * leaf.dtype.itemsize))
    return sorted(found, key=lambda pair: -pair[1])


def what_to_change(plan):
    """A clause for a program that does not fit."""
    from crate_jax.distributed.sharding import batch_ways, fsdp_ways, rules_for
    from crate_jax.models.registry import boxed_shapes

    config, mesh, model = plan.program.config, plan.program.mesh, plan.program.model
    rules, advice = rules_for(config.mesh), []
    if model.remat == "none":
        advice.append("--config.model.remat=names")
    elif model.remat != "full":
        advice.append("--config.model.remat=full")
    inside = mesh.shape["data"] // (config.mesh.dcn_data or 1)  # fsdp does not cross slices
    if mesh.shape["fsdp"] == 1 and (ways := fsdp_ways(boxed_shapes(model), inside, rules)) > 1:
        advice.append(f"--config.mesh.fsdp={ways} --config.mesh.data=-1")
    each = config.batch_size / (batch_ways(mesh, rules) * config.optimizer.accumulate)
    if each % 2 == 0:  # images of a chip in a micro-batch
        advice.append(f"--config.optimizer.accumulate={2 * config.optimizer.accumulate}")
    advice.append("more chips" if each > 1 else "more chips or a smaller network")
    return ", ".join(advice[:-1]) + (" or " if len(advice) > 1 else "") + advice[-1]
