"""Sphinx: `pip install -e '.[docs]'; sphinx-build -W --keep-going docs docs/_build` from the root of the checkout."""

import pathlib
import re
import shutil

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

ROOT = pathlib.Path(__file__).resolve().parents[1]
version_file = ROOT / "crate_jax" / "version.py"
release = re.search(r'__version__ = "(.+?)"', version_file.read_text()).group(1)
version = release
project = "crate_jax"
copyright = "the crate_jax authors, Apache-2.0"

NOTEBOOKS = pathlib.Path(__file__).with_name("notebooks")  # copies: Sphinx reads what is below docs/ only
OUTSIDE = re.compile(r"\]\((\.\./[\w/]+\.md)")

extensions = ["myst_nb"]
myst_enable_extensions = ["dollarmath"]  # the notebooks' formulas
nb_execution_mode = "off"  # what is stored in the notebooks is shown
nb_merge_streams = True
html_math_renderer = "mathml"
smartquotes = False  # --workdir is two dashes
myst_heading_anchors = 4
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"crate_jax {release}"


def inline_formula(translator, node):
    """A formula as MathML, which browsers draw without a script or a network."""
    translator.body.append(convert(node.astext()))
    raise SkipNode


def block_formula(translator, node):
    """The same on a separate line."""
    translator.body.append(f'<div style="overflow-x: auto">{convert(node.astext(), display="block")}</div>')
    raise SkipNode


def setup(app):
    """MathML, notebooks; Markdown files outside docs/ become downloads, which a plain link to them is on GitHub."""
    app.add_html_math_renderer("mathml", (inline_formula, None), (block_formula, None))
    shutil.copytree(ROOT / "notebooks", NOTEBOOKS, dirs_exist_ok=True)
    app.connect("source-read", with_links)


def with_links(app, name, source):
    """The page's text with the links that Sphinx follows."""
    source[0] = OUTSIDE.sub(r"](path:\1", source[0]).replace("](../notebooks/", "](notebooks/")
