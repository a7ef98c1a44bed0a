"""HTML of the interactive page: small pictures in large pixels with a line below, tables, networks side by side.

Pictures travel as they are, a few kilobytes each, and the browser enlarges them.
"""

import base64
import html
import io

from PIL import Image

STYLE = """<style>
.cj { display: flex; flex-wrap: wrap; gap: .8rem 2rem; }
.cj > div { flex: 1 1 18rem; min-width: 0; }
.cj .cj-row { display: grid; grid-template-columns: repeat(auto-fit, minmax(6rem, 1fr)); gap: .6rem; }
.cj figure { margin: 0; max-width: 14rem; }
.cj img { image-rendering: pixelated; width: 100%; display: block; border-radius: 2px; }
.cj figcaption, .cj p, .cj-note { font-size: .85rem; line-height: 1.35; opacity: .8; margin: .3rem 0; }
.cj table { border-collapse: collapse; font-size: .85rem; margin: .7rem 0 0 !important; }
.cj tr { border: 0 !important; }
.cj td { padding: .15rem .9rem .15rem 0 !important; border: 0 !important; vertical-align: middle; white-space: nowrap; }
.cj td.cj-patches img { display: inline-block; width: 2.1rem; margin: 0 .2rem 0 0; vertical-align: middle; }
</style>"""


def image(pixels_HxWx3):
    """An <img> with the picture inside.

    Args:
        pixels_HxWx3: uint8.
    """
    held = io.BytesIO()
    Image.fromarray(pixels_HxWx3).save(held, format="png")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}">'


def figure(pixels_HxWx3, caption):
    """A picture with a line below."""
    return f"<figure>{image(pixels_HxWx3)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def row(figures):
    """Figures beside each other, as many as fit.

    Args:
        figures: HTML, of `figure`.
    """
    return f'<div class="cj-row">{"".join(figures)}</div>'


def columns(parts, note=""):
    """Networks side by side.

    Args:
        parts: (heading, HTML) pairs.
        note: a sentence below.
    """
    made = [f"<div><h4>{html.escape(name)}</h4>{inner}</div>" for name, inner in parts]
    below = f'<p class="cj-note">{html.escape(note)}</p>' if note else ""
    return f'{STYLE}<div class="cj">{"".join(made)}</div>{below}'


def layer(figures, numbers, atoms):
    """What there is of one layer.

    Args:
        figures: HTML, of `figure`.
        numbers: (measurement, value) pairs of text.
        atoms: (name, code, uint8 patches) triples, the strongest first.
    """
    rows = [f"<tr><td>{html.escape(name)}</td><td>{value}</td></tr>" for name, value in numbers]
    parts = [f"{row(figures)}<table>{''.join(rows)}</table>"]
    if atoms:
        rows = [
            f'<tr><td>{name}</td><td>{value}</td><td class="cj-patches">{"".join(map(image, patches))}</td></tr>'
            for name, value, patches in atoms
        ]
        words = "Atoms most active on the chosen patch, their codes, and the training patches that activate each most:"
        parts.append(f"<div><p>{words}</p><table>{''.join(rows)}</table></div>")
    return "".join(parts)
