"""Sphinx: `pip install -e '.[docs]'; sphinx-build -W --keep-going docs docs/_build` from the root of the checkout."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
version_file = ROOT / "crate_jax" / "version.py"
release = re.search(r'__version__ = "(.+?)"', version_file.read_text()).group(1)
version = release
project = "crate_jax"
copyright = "the crate_jax authors, Apache-2.0"

OUTSIDE = re.compile(r"\]\((\.\./[\w/]+\.md)")

extensions = ["myst_parser"]
smartquotes = False  # --workdir is two dashes
myst_heading_anchors = 4
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"crate_jax {release}"


def setup(app):
    """Markdown files outside docs/ become downloads, which a plain link to them is on GitHub."""
    app.connect("source-read", lambda app, name, source: source.__setitem__(0, OUTSIDE.sub(r"](path:\1", source[0])))
