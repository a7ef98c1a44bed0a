"""The documentation says what is there: links, commands, settings, configs, names, and the words of the field."""

import doctest
import functools
import importlib
import pathlib
import re
import runpy

import pytest

import crate_jax
from crate_jax.cli.main import COMMANDS
from crate_jax.config_files import installed_configs
from crate_jax.config_schema import LEAVES

ROOT = pathlib.Path(__file__).resolve().parents[1]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *GUIDES]
USED = [ROOT / "README.md", *GUIDES]  # what tells a user what to type
LONGEST_README = 160
EXAMPLES = {"a.b", "NAME", "model.X"}  # in the place of a setting

# phrases that the first version had in place of the field's words
PRIVATE_WORDS = (
    r"split over the mesh|copied to every device|, lies as\b",
    r"\bwhat waits\b|kept for the backward",
    r"\bspread\b",
    r"\bnarrow (dtypes?|precision|products?|numbers)|\bwide (dtypes?|precision|products?|sums)",
    r"\broom on the chip\b|\bstays? on the chip\b",
    r"kernel that is asked for",
    r"\bgone on with\b|\bgo(es)? on where it\b",
    r"\b(is|are|was|were) told\b|\btold in a sentence\b",
    r"\bwhatever\b|\bwhoever\b",
    r"different things a token says|say the most different",
    r"takes? (it|them|each of those pictures) for\b",
    r"bar to look at",
    r"\bas predicted\b|\bdeparts?\b",
    r"\b(FLOP|FLOPs|GiB|images|examples?|layers?|labels?) an? (image|step|device|chip|class|second)\b",
    r"\b(images|examples) a (second|class)\b",
)


def lines_of(page):
    """(number, line, whether it is inside a code block), of a page."""
    code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        yield number, line, code


@functools.cache
def anchors(page):
    """Anchors of a page's headings, as GitHub and MyST make them."""
    found = set()
    for _, line, code in lines_of(page):
        if not code and (heading := re.match(r"#+ (.+)", line)):
            text = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).strip().lower()
            found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    broken = []
    for number, line, code in lines_of(page):
        for target in [] if code else re.findall(r"\]\(([^)\s]+)\)", line):
            if target.startswith(("http://", "https://")):
                continue
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"line {number}: {target}")
    assert not broken


def test_the_readme_is_short_and_has_no_address_to_fill_in():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= LONGEST_README
    assert "OWNER" not in text


def commands():
    """(page and line, words) of every crate-jax command in the pages."""
    for page in USED:
        for number, line, _ in lines_of(page):
            for text in re.findall(r"(?<![\w/.])crate-jax ([^`#|]*)", line):
                text = re.split(r"\bthen:", text)[0]
                yield f"{page.name}:{number}", text.split()


def test_every_command_and_flag_exists():
    parsers = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))["parsers"]()
    wrong, seen = [], set()
    for place, words in commands():
        if not words or not re.fullmatch(r"[a-z]+", words[0]):
            continue
        seen.add(words[0])
        if words[0] not in COMMANDS:
            wrong.append(f"{place}: {words[0]}")
            continue
        flags = set(parsers[words[0]][1]._option_string_actions)
        for word in words[1:]:
            flag = re.match(r"\[?(--[\w-]+)", word)
            if flag and not word.lstrip("[").startswith("--config.") and flag[1] not in flags:
                wrong.append(f"{place}: {words[0]} {word}")
    assert not wrong
    assert seen >= set(COMMANDS) - {"demo"}


def test_every_setting_and_config_exists():
    known, wrong = installed_configs() | installed_configs("sweeps"), []
    for page in USED:
        for number, line, _ in lines_of(page):
            settings = re.findall(r"--config\.([\w.]+)", line)
            if "learning_rat=" not in line and "learning_rat:" not in line:
                wrong += [f"{page.name}:{number}: {s}" for s in settings if s not in LEAVES and s not in EXAMPLES]
            for name in re.findall(r"--config=([a-z0-9_]+)(?::([a-z0-9_]+))?(?![\w./:])", line):
                stem = "_".join(filter(None, name))
                if stem not in known and stem != "mine":
                    wrong.append(f"{page.name}:{number}: --config={stem}")
    groups = {name.partition(".")[0] for name in LEAVES if "." in name}
    for page in USED:
        for number, line, _ in lines_of(page):
            for name in re.findall(rf"`((?:{'|'.join(groups)})\.[a-z_]+)(?:=[^`]*)?`", line):
                if name not in LEAVES and not name.endswith((".json", ".png")):
                    wrong.append(f"{page.name}:{number}: {name}")
    assert not wrong


def test_every_public_name_exists():
    missing = set()
    for page in USED:
        for name in re.findall(r"\bcrate_jax\.([a-zA-Z_]+)", page.read_text()):
            module = ROOT / "crate_jax" / name
            if name not in crate_jax.__all__ and not module.exists() and not module.with_suffix(".py").exists():
                missing.add(f"{page.name}: {name}")
    assert not missing


def test_the_reference_is_what_the_code_says():
    made = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))
    assert (ROOT / "docs" / "reference.md").read_text() == made["page"](), "run python docs/make_reference.py"


def test_lines_of_the_recipes_are_in_the_code():
    code = "\n".join(path.read_text() for folder in ("crate_jax", "tests") for path in (ROOT / folder).rglob("*.py"))
    stripped = {line.strip() for line in code.splitlines()}
    added = [line[1:].strip() for _, line, block in lines_of(ROOT / "CONTRIBUTING.md") if block and line[:1] == "+"]
    assert len(added) > 10
    assert [line for line in added if line not in stripped] == []


@pytest.mark.parametrize("page", USED, ids=lambda page: page.name)
def test_words_are_those_of_the_field(page):
    found = [
        f"line {number}: {match[0]}"
        for number, line, _ in lines_of(page)
        for pattern in PRIVATE_WORDS
        for match in re.finditer(pattern, line)
    ]
    assert not found


@pytest.mark.parametrize("name", ["errors", "operators.masking", "operators.patches", "training.loss_curve"])
def test_examples_in_docstrings(name):
    found = doctest.testmod(importlib.import_module(f"crate_jax.{name}"))
    assert found.attempted and not found.failed


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text().split()
    assert [page.stem for page in GUIDES if page.stem != "index" and page.stem not in index] == []


def test_the_pages_build_without_a_warning(tmp_path):
    """Where the extra `docs` is installed."""
    build = pytest.importorskip("sphinx.cmd.build")
    for name in ("myst_nb", "furo", "latex2mathml"):
        pytest.importorskip(name)
    assert build.main(["-q", "-W", "--keep-going", str(ROOT / "docs"), str(tmp_path)]) == 0
