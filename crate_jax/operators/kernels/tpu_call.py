"""How a TPU kernel is run: compiled on a TPU and interpreted elsewhere, on each device of a mesh, over images in turn.

A kernel whose result is a sum over images (a weight's gradient) keeps the sum in VMEM, so its programs run one
after the other; on chips of two cores each core sums its half.
"""

import functools

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.tpu as pltpu
import jax.numpy as jnp

from crate_jax.errors import UserError

LANES = 128
VMEM_BYTES = 28 * 2**20  # what there is on every generation from v4 on, and some room beside it
DEFAULT_VMEM_BYTES = 16 * 2**20  # what a kernel is given without asking


def vmem_limit(needed, what, *, keeps, instead="'xla'"):
    """The bytes of VMEM that a kernel is given.

    Args:
        needed: bytes.
        what: tokens, and their width where it matters.
        keeps: setting and what it keeps there, the beginning of the error.
        instead: what to choose.

    Raises:
        UserError: more than `VMEM_BYTES`.
    """
    if needed > VMEM_BYTES:
        raise UserError(
            f"{keeps} in VMEM; {what} would need about {needed / 2**20:.0f} MiB of its "
            f"{VMEM_BYTES // 2**20}; choose {instead}."
        )
    return max(needed, DEFAULT_VMEM_BYTES)


def product(a, b, contracted):
    """a and b contracted over one axis of each, float32."""
    dimensions = (((contracted[0],), (contracted[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def on_platform(call, *arrays):
    """`call(*arrays, interpret)` compiled where there is a TPU; elsewhere its interpretation, for tests, and slow."""
    return jax.lax.platform_dependent(
        *arrays, tpu=lambda *them: call(*them, interpret=False), default=lambda *them: call(*them, interpret=True)
    )


def cores():
    """TensorCores per chip of the current mesh; 1 without a mesh."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return getattr(device, "num_cores", None) or 1


def by_image(kernel, *, images, whole, outputs, sums, flops, vmem_bytes, interpret):
    """Runs a kernel once an image.

    Args:
        kernel: takes a reference to 1 x N x D of each of `images`, to each of `whole`, to each of `outputs`
            (1 x N x D), and two for each sum: an float32 sum that it adds to, zero at first.
        images: arrays of B x N x D.
        whole: arrays that every program reads.
        outputs: `ShapeDtypeStruct`s of B x N x D.
        sums: shapes; each result is float32, parts x shape, to be summed over the parts.
        flops: of all.
        vmem_bytes: VMEM of one program.
        interpret: True: not for a TPU.

    Returns:
        Outputs and sums.
    """
    batch, tokens, width = images[0].shape
    parts = cores() if sums and batch % cores() == 0 else 1
    turns = batch // parts

    def image(shape):
        return pl.BlockSpec((1, *shape[1:]), lambda part, turn: (part * turns + turn, 0, 0))

    def total(shape):
        return pl.BlockSpec((1, *shape), lambda part, turn: (part, *(0 for _ in shape)))

    def body(*refs):
        if sums:

            @pl.when(pl.program_id(1) == 0)
            def _():
                for ref in refs[-len(sums) :]:
                    ref[...] = jnp.zeros_like(ref)

        kernel(*refs)

    shapes = (*outputs, *(jax.ShapeDtypeStruct((parts, *shape), jnp.float32) for shape in sums))
    moved = sum(x.size * x.dtype.itemsize for x in (*images, *whole, *shapes))
    return pl.pallas_call(
        body,
        out_shape=shapes,
        grid=(parts, turns),
        in_specs=[
            *(image(x.shape) for x in images),
            *(pl.BlockSpec(x.shape, functools.partial(lambda axes, part, turn: (0,) * axes, x.ndim)) for x in whole),
        ],
        out_specs=[*(image(x.shape) for x in outputs), *(total(shape) for shape in sums)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary" if sums else "parallel"),
            vmem_limit_bytes=vmem_limit(
                vmem_bytes,
                f"{tokens} tokens of {width}",
                keeps="model.product_kernel='pallas' keeps a layer's matrix and an image's tokens",
            ),
        ),
        cost_estimate=pl.CostEstimate(flops=flops, transcendentals=0, bytes_accessed=moved),
        interpret=interpret,
    )(*images, *whole)


def run_by_image(kernel, *, images, whole, outputs, sums, flops_per_token, vmem_bytes, spec):
    """`by_image` on each device of the mesh in force, compiled or interpreted; sums are over all images.

    Args:
        kernel, images, whole, sums, vmem_bytes: as in `by_image`.
        outputs: width of each; B, N and type are those of the first of `images`.
        flops_per_token: of all.
        spec: as in `split_images`.

    Returns:
        Outputs and sums.
    """

    def local(*arrays):
        (batch, tokens, _), kind = arrays[0].shape, arrays[0].dtype

        def call(*arrays, interpret):
            return by_image(
                kernel,
                images=arrays[: len(images)],
                whole=arrays[len(images) :],
                outputs=[jax.ShapeDtypeStruct((batch, tokens, width), kind) for width in outputs],
                sums=sums,
                flops=flops_per_token * batch * tokens,
                vmem_bytes=vmem_bytes,
                interpret=interpret,
            )

        return on_platform(call, *arrays)

    return split_images(local, spec, len(images), len(whole), len(outputs), len(sums))(*images, *whole)


def split_images(function, spec, images, whole, outputs, sums):
    """The function on each device's images; sums are then summed over the parts of all devices.

    Args:
        function: (images and whole arrays) to a list of `outputs` arrays and `sums` sums, parts first.
        spec: of the images, a `PartitionSpec` over the mesh in force whose axes divide B; None: there is no mesh.
        images, whole: how many arguments are images' and how many are the same for all.
        outputs, sums: how many results are images' and how many are sums.

    Returns:
        A function of the same arguments; its sums have no parts any more.
    """

    def summed(*arrays):
        split = function
        if spec is not None:
            everywhere = jax.sharding.PartitionSpec()
            part = jax.sharding.PartitionSpec(spec[0])
            split = jax.shard_map(
                function,
                in_specs=(spec,) * images + (everywhere,) * whole,
                out_specs=(spec,) * outputs + (part,) * sums,
                check_vma=False,  # every device does its own part
            )
        results = split(*arrays)
        return [*results[:outputs], *(jnp.sum(x, 0) for x in results[outputs:])]

    return summed
