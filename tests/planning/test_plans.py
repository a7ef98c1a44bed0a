"""Names of slices, a program's text, and the roofline, each against numbers worked out by hand."""

import importlib.metadata
import importlib.util
import types

import pytest

from benchmarks.memory_traffic import by_purpose, memory_bytes, padded_bytes
from crate_jax import create_model
from crate_jax.config import default_config, override
from crate_jax.errors import UserError
from crate_jax.models.flops import flops_per_image, repeated_flops
from crate_jax.planning import ahead_of_time
from crate_jax.planning.chips import CHIPS, find_topology
from crate_jax.planning.collectives import BETWEEN_SLICES, Collective, collectives, type_bytes
from crate_jax.planning.roofline import bytes_sent, model_flops, roofline

# Four layers scanned: each gathers its slice of a stack, multiplies, and the loop's result is reduced, and sent on.
TEXT = """\
HloModule step, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%take (stack: f32[4,16,128], at: s32[]) -> f32[16,128] {
  %stack = f32[4,16,128]{2,1,0:T(8,128)} parameter(0)
  %at = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice = f32[1,16,128]{2,1,0:T(8,128)} dynamic-slice(%stack, %at, %zero, %zero), dynamic_slice_sizes={1,16,128}
  ROOT %flat = f32[16,128]{1,0:T(8,128)} bitcast(%slice)
}

%body (state: (s32[], f32[128,128], f32[4,16,128])) -> (s32[], f32[128,128], f32[4,16,128]) {
  %state = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)}, f32[4,16,128]{2,1,0:T(8,128)}) parameter(0)
  %at.1 = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[128,128]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %stack.1 = f32[4,16,128]{2,1,0:T(8,128)} get-tuple-element(%state), index=2
  %part = f32[16,128]{1,0:T(8,128)} fusion(%stack.1, %at.1), kind=kLoop, calls=%take
  %whole = f32[128,128]{1,0:T(8,128)} all-gather(%part), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  %twin = f32[128,128]{1,0:T(8,128)} all-gather(%part), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  %y = f32[128,128]{1,0:T(8,128)} dot(%x, %whole), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %next = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)}, f32[4,16,128]{2,1,0:T(8,128)}) tuple(%at.1, %y, %stack.1)
}

%condition (state.1: (s32[], f32[128,128], f32[4,16,128])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)}, f32[4,16,128]{2,1,0:T(8,128)}) parameter(0)
  %at.2 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %end = s32[]{:T(128)} constant(4)
  ROOT %less = pred[]{:T(512)} compare(%at.2, %end), direction=LT
}

ENTRY %main (x.0: f32[128,128], stack.0: f32[4,16,128]) -> f32[128,128] {
  %x.0 = f32[128,128]{1,0:T(8,128)} parameter(0)
  %stack.0 = f32[4,16,128]{2,1,0:T(8,128)} parameter(1)
  %zero.0 = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)}, f32[4,16,128]{2,1,0:T(8,128)}) tuple(%zero.0, %x.0, %stack.0)
  %loop = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)}, f32[4,16,128]{2,1,0:T(8,128)}) while(%start), condition=%condition, body=%body
  %last = f32[128,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  %total = f32[128,128]{1,0:T(8,128)} all-reduce(%last), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %token = token[] after-all()
  %send = (f32[128,128]{1,0:T(8,128)}, u32[], token[]) send(%total, %token), channel_id=3, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  ROOT %copy = f32[128,128]{1,0:T(8,128)} copy(%total)
}
"""  # noqa: E501
WHOLE = 128 * 128 * 4
PART = 16 * 128 * 4


def test_collectives_are_counted_with_their_loops_and_once_a_channel():
    found = sorted(collectives(TEXT), key=lambda one: one.kind)
    assert found == [
        Collective("all-gather", 4, WHOLE, (tuple(range(8)),)),
        Collective("all-reduce", 1, WHOLE, ((0, 1, 2, 3), (4, 5, 6, 7))),
        Collective(BETWEEN_SLICES, 1, WHOLE, ()),
    ]


def test_of_the_branches_of_a_switch_one_runs():
    """With masking.ratio the collectives of all four ratios were counted."""
    branch = """
%{name} (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  ROOT %total = f32[8]{{0}} all-reduce(%x), channel_id={channel}, replica_groups={{}}, to_apply=%add
}}
"""
    branches = "".join(branch.format(name=f"ratio_{n}", channel=n) for n in range(4))
    entry = """
ENTRY %main (level: s32[], x: f32[8]) -> f32[8] {
  %level = s32[] parameter(0)
  %x = f32[8]{0} parameter(1)
  ROOT %drawn = f32[8]{0} conditional(%level, %x), branch_computations={%ratio_0, %ratio_1, %ratio_2, %ratio_3}
}
"""
    assert collectives(branches + entry) == [Collective("all-reduce", 1, 32, ())]


def test_memory_traffic_follows_the_loops_and_reads_slices_only():
    number = 512  # bytes: a lone one fills a tile
    body = (PART + number + PART) + 2 * (PART + WHOLE) + 3 * WHOLE  # the fusion, two gathers, the product
    condition = 2 * number + 512
    once_only = 2 * WHOLE + WHOLE + 2 * WHOLE  # all-reduce, send, copy
    with_trips, once, crossing = memory_bytes(TEXT)
    assert once == pytest.approx(body + condition + once_only, rel=0.1)
    assert with_trips - once == pytest.approx(3 * (body + condition), rel=0.01)
    assert crossing == with_trips  # everything lies in HBM


# An activation is copied onto the chip in halves, multiplied there by a weight, normalised, and copied back.
SPACES = """\
HloModule step, is_scheduled=true

ENTRY %main (x: bf16[64,128], w: bf16[128,128]) -> bf16[64,128] {
  %x = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[128,128]{1,0:T(8,128)(2,1)} parameter(1)
  %slice-start = ((bf16[64,128]{1,0:T(8,128)(2,1)}), bf16[32,128]{1,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:32], [0:128]}
  %slice-start.1 = ((bf16[64,128]{1,0:T(8,128)(2,1)}), bf16[32,128]{1,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[32:64], [0:128]}
  %slice-done = bf16[32,128]{1,0:T(8,128)(2,1)S(1)} slice-done(%slice-start)
  %slice-done.1 = bf16[32,128]{1,0:T(8,128)(2,1)S(1)} slice-done(%slice-start.1)
  %near = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} custom-call(%slice-done, %slice-done.1), custom_call_target="ConcatBitcast"
  %y = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} dot(%near, %w), metadata={op_name="jit(f)/jvp(CrateMae)/encoder_00/sparsification/dot_general"}
  %n = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} negate(%y), metadata={op_name="jit(f)/transpose(jvp(CrateMae))/encoder_00/ista_norm/neg"}
  %copy-start = (bf16[64,128]{1,0:T(8,128)(2,1)}, bf16[64,128]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) copy-start(%n)
  ROOT %copy-done = bf16[64,128]{1,0:T(8,128)(2,1)} copy-done(%copy-start)
}
"""  # noqa: E501


def test_what_stays_on_the_chip_does_not_cross_memory():
    x, w = 64 * 128 * 2, 128 * 128 * 2
    counted, once, crossing = memory_bytes(SPACES)
    assert counted == once == 2 * x + 2 * x + (2 * x + w) + 2 * x + 3 * x  # halves, joined, product, norm, back
    assert crossing == x + w + x
    purposes = {name: pairs for name, pairs in by_purpose(SPACES).items() if pairs != [[0, 0], [0, 0]]}
    assert purposes == {
        "copies to VMEM ahead of use, and back": [[7 * x, 2 * x], [0, 0]],
        "ISTA": [[2 * x + w, w], [0, 0]],
        "LayerNorm": [[0, 0], [2 * x, 0]],
    }


def test_arrays_lie_in_tiles():
    assert type_bytes("bf16[3,17,64]{2,1,0:T(8,128)(2,1)S(1)}") == 2 * 3 * 17 * 64
    assert padded_bytes("bf16[3,17,64]{2,1,0:T(8,128)(2,1)S(1)}") == 2 * 3 * 24 * 128
    assert padded_bytes("f32[64,17]{0,1:T(8,128)}") == 4 * 128 * 24  # columns lie together
    assert type_bytes("(f32[2]{0}, pred[], /*index=2*/u8[3]{0})") == 8 + 1 + 3


@pytest.mark.parametrize(
    ("name", "libtpu", "chips"),
    [
        ("v5e:16x16", "v5e:16x16", 256), ("v5litepod-256", "v5e:16x16", 256), ("v5litepod-16", "v5e:4x4", 16),
        ("v6e-64", "v6e:8x8", 64), ("v5p:8x8x8", "v5p:8x8x8", 512), ("v5p-128", "v5p:4x4x4", 64),
        ("v4-32", "v4:2x2x4", 16), ("v5e-1", "v5e:1x1", 1),
    ],
)  # fmt: skip
def test_names_of_slices(name, libtpu, chips):
    topology = find_topology(name)
    assert (topology.name, topology.chips) == (libtpu, chips)


def test_what_libtpu_has_to_be_told():
    assert find_topology("v4-8").options == {"chip_config_name": "megacore"}
    assert find_topology("v5e:1x1").options == {"chips_per_host_bounds": (1, 1, 1)}
    assert find_topology("v5e:4x4", 2).options == {"num_slices": 2}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v5e", "neither CHIP:SHAPE"), ("v9:2x2", "there is no chip v9"), ("v5litepod-17", "there are v5litepod-1, "),
        ("v5p-7", "no such slice"), ("v5p:4x4", "3 dimensions, such as v5p:"), ("v5e:2x2x2", "2 dimensions"),
        ("v5e:0x2", "neither CHIP:SHAPE"), (f"v5e:{'9' * 5000}x2", "neither CHIP:SHAPE"),
        (f"v5e-{'9' * 5000}", "neither"),
    ],
)  # fmt: skip
def test_names_that_mean_nothing(name, says):
    with pytest.raises(UserError, match=says):
        find_topology(name)


def test_rings():
    def sent(kind, groups=(), slices=1):
        return bytes_sent(Collective(kind, 1, 800.0, groups), 8, slices)

    assert sent("all-reduce") == 2 * 7 / 8 * 800
    assert sent("all-gather") == 7 / 8 * 800
    assert sent("reduce-scatter") == 7 * 800
    assert sent("all-reduce", ((0, 1), (2, 3))) == 800
    assert sent("collective-permute") == 800
    assert sent(BETWEEN_SLICES, slices=4) == 2 * 3 / 4 * 800


def test_the_slowest_is_the_bound():
    topology, chip = find_topology("v5e:2x4"), CHIPS["v5e"]
    found = [Collective("all-reduce", 10, 4e9, ())]
    limit = roofline(topology, flops=chip.flops, hbm_bytes=2 * chip.hbm_bandwidth, found=found)
    assert limit.compute == pytest.approx(1)
    assert limit.memory == pytest.approx(2)
    assert limit.interconnect == pytest.approx(10 * 2 * 7 / 8 * 4e9 / 200e9)
    assert (limit.bound, limit.seconds) == ("memory", limit.memory)
    slow = [Collective(BETWEEN_SLICES, 1, 3.125e10, ())]
    limit = roofline(find_topology("v5e:2x4", 2), flops=0, hbm_bytes=0, found=slow)
    assert (limit.bound, limit.seconds) == ("interconnect", pytest.approx(10))


def test_flops_are_counted_by_hand():
    config = override(default_config(), [("batch_size", 1024)])
    base = create_model("crate_mae_base")
    assert model_flops(config, base, 16) == 64 * flops_per_image(base)
    again = create_model("crate_mae_base", remat="full")
    assert 1.2 < model_flops(config, again, 16) / model_flops(config, base, 16) < 1.4
    kernels = create_model("crate_mae_base", remat="names", attention_kernel="pallas", product_kernel="pallas")
    # two products of scores and the codes in every layer, ISTA in the encoder's
    repeated = 24 * 4 * 197**2 * 768 + 24 * 2 * 197 * 768**2 + 12 * 4 * 197 * 768**2
    assert model_flops(config, kernels, 16) == 64 * (flops_per_image(base) + repeated)


def test_an_attention_that_is_computed_again_is_counted_where_it_is():
    """ "recompute" is MSSA's alone; CBSA's kernel repeats its attention, as MSSA's does."""

    def again(name, kernel):
        return repeated_flops(create_model(name, attention_kernel=kernel))

    for name, repeating in (("crate_mae_tiny", {"recompute", "pallas"}), ("cbsa_mae_tiny", {"pallas"}),
                            ("tost_mae_tiny", set())):  # fmt: skip
        found = {kernel for kernel in ("auto", "xla", "recompute", "pallas") if again(name, kernel)}
        assert found == repeating, name
    model = create_model("cbsa_mae_tiny", attention_kernel="pallas")
    attention = 2 * 384 * (3 * 64 * 197 + 2 * 64**2)  # three products of 64 x 197 and two of 64 x 64 per channel
    assert repeated_flops(model) == (model.depth + model.decoder_depth) * attention


@pytest.mark.parametrize(
    ("message", "used", "there"),
    [
        ("RESOURCE_EXHAUSTED: ... Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.", 20.5, 15.75),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (291.16G) "
            "exceeds available HBM (15.75G).",
            291.16,
            15.75,
        ),
        ("INVALID_ARGUMENT: something else", None, None),
    ],
)
def test_a_refusal_is_read(message, used, there):
    wanted = (None, None) if used is None else (used * 2**30, there * 2**30)
    assert ahead_of_time.refusal(message) == wanted


def test_without_libtpu_a_sentence_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"crate-jax\[tpu\]"):
        ahead_of_time.prepare_environment()


@pytest.mark.parametrize(("installed", "asked", "refused"), [
    ("0.0.21.1", "libtpu==0.0.23; extra == 'tpu'", True), ("0.0.23", "libtpu==0.0.23; extra == 'tpu'", False),
    ("0.0.42.1", "libtpu==0.0.42.*; extra == 'tpu'", False), ("0.0.50", "libtpu==0.0.42.*; extra == 'tpu'", False),
])  # fmt: skip
def test_an_older_libtpu_than_jax_asks_for_is_refused(monkeypatch, installed, asked, refused):
    """It ended the process with a segmentation fault (jax 0.7.2 with Colab's libtpu)."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(importlib.metadata, "version", {"libtpu": installed, "jax": "0.7.2"}.get)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy>=2", asked])
    found = ahead_of_time.missing_compiler()
    assert (found is not None) == refused
    if refused:
        assert "libtpu 0.0.21.1 is older than jax 0.7.2 requires (libtpu==0.0.23)" in found


@pytest.mark.parametrize(
    ("settings", "mesh", "words"),
    [
        ({"batch_size": 16}, (2, 2, 1), "--config.optimizer.accumulate=4 or more chips"),
        ({"batch_size": 24}, (2, 2, 1), "more chips"),
        ({"batch_size": 8}, (2, 2, 1), "more chips or a smaller network"),
        # images over the tensor axis as well
        (
            {"batch_size": 32, "mesh.rules": (("images", ("data", "fsdp", "tensor")),)},
            (2, 2, 4),
            "more chips or a smaller network",
        ),
        # a width of 384 = 3 * 128 over 256 chips, and over two slices of them
        (
            {"batch_size": 512},
            (256, 1, 1),
            "--config.mesh.fsdp=128 --config.mesh.data=-1 or more chips or a smaller network",
        ),
        (
            {"batch_size": 1024, "mesh.dcn_data": 2},
            (512, 1, 1),
            "--config.mesh.fsdp=128 --config.mesh.data=-1 or more chips or a smaller network",
        ),
        ({"batch_size": 512, "mesh.rules": (("embed", None),)}, (256, 1, 1), "more chips or a smaller network"),
    ],
)
def test_what_is_advised_can_be_done(settings, mesh, words):
    """More micro-batches were advised than a chip has images, and parameters over more chips than divide them."""
    config = override(default_config(), settings | {"optimizer.accumulate": 2})
    mesh = types.SimpleNamespace(shape=dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)))
    program = types.SimpleNamespace(config=config, mesh=mesh, model=create_model("crate_mae_tiny", remat="full"))
    assert ahead_of_time.what_to_change(types.SimpleNamespace(program=program)) == words
