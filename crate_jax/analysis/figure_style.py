"""The look of the report's figures: what stands for which network, layers on an axis."""

from crate_jax.figures import COLOURS, GREY

BLUE, ORANGE, GREEN, PINK, SKY, RED = COLOURS
LINES = {
    "network": {"color": BLUE, "marker": "o"},
    "training images": {"color": GREEN, "marker": "^", "linestyle": "--"},
    "untrained": {"color": ORANGE, "marker": "s", "linestyle": ":"},
}
OTHER = {"color": PINK, "marker": "D", "linestyle": "-."}  # a second run


def short_name(layer):
    """E3 for encoder_03."""
    return f"{layer[0].upper()}{int(layer.rpartition('_')[2])}"


def layer_axis(axis, names):
    """Layers on the x axis: E0, E1, ... for the encoder, D0, ... for the decoder, with a line between."""
    short = list(map(short_name, names))
    step = max(1, len(short) // 12)
    axis.set_xticks(range(0, len(short), step), short[::step])
    depth = sum(name.startswith("encoder") for name in names)
    if 0 < depth < len(names):
        axis.axvline(depth - 0.5, color=GREY, linewidth=0.8, alpha=0.6)
