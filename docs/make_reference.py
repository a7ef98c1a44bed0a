"""Writes docs/reference.md from the code: every command's flags, every setting, every config, the public API.

python docs/make_reference.py            writes the page
python docs/make_reference.py --check    exit code 1 if the page is not what the code says
"""

import argparse
import ast
import importlib
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference.md"

HEAD = """\
# Reference

*Made by `python docs/make_reference.py` from the parsers, the schema and the docstrings; a test compares. Do not edit.*
"""


def parsers():
    """Command name to (module, argument parser)."""
    from crate_jax.cli.main import COMMANDS

    made = {}
    for name in COMMANDS:
        module = importlib.import_module(f"crate_jax.cli.{name}")
        parser = argparse.ArgumentParser(prog=f"crate-jax {name}")
        module.add_arguments(parser)
        made[name] = module, parser
    return made


def cell(text):
    """Text for a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def table(head, rows):
    """Lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def described(docstring):
    """Lines of Markdown for a docstring whose indented lines, and those that start with crate-jax, are commands."""
    lines, code = [], False
    for line in (docstring or "").strip().splitlines():
        command = line.startswith("    ") or line.startswith("crate-jax ")
        if command and not code:
            lines += [""] * bool(lines and lines[-1]) + ["```text"]
        if code and not command:
            lines.append("```")
        code = command
        lines.append(line.removeprefix("    ") if command else line.replace("*", "\\*"))
    return [*lines, "```"] if code else lines


def flag_row(action):
    """A row of a command's table."""
    name = ", ".join(f"`{flag}`" for flag in action.option_strings) or f"`{action.dest}`"
    needed = action.required or not action.option_strings
    default = "" if action.default in (None, argparse.SUPPRESS, False) else f"`{action.default}`"
    choices = " | ".join(f"`{choice}`" for choice in action.choices or ())
    return [cell(name), cell("required" if needed else default), cell(": ".join(filter(None, (action.help, choices))))]


def command_lines():
    """The section of the commands."""
    from crate_jax.cli.main import COMMANDS

    lines = [
        "## Commands", "",
        "`crate-jax COMMAND` or `python -m crate_jax COMMAND`. Every command that reads a config takes",
        "settings as `--config.NAME=VALUE`. Exit codes: 0 done, 1 an error that a person has to mend, 143 preempted (a",
        "checkpoint was saved), 175 lost a host or its storage, or stalled. After 143 and 175 the same command",
        "resumes.", "",
        *table(["command", "does"], [[f"[`{name}`](#{name})", cell(what)] for name, what in COMMANDS.items()]), "",
    ]  # fmt: skip
    for name, (module, parser) in parsers().items():
        flags = [action for action in parser._actions if action.dest != "help"]
        lines += [f"### {name}", "", *described(module.__doc__), ""]
        lines += [*table(["flag", "default", "meaning"], map(flag_row, flags)), ""]
    return lines


def setting_lines():
    """The section of the settings, a table per group."""
    from crate_jax.config_schema import LEAVES

    groups = {}
    for name, leaf in LEAVES.items():
        group, dot, _ = name.rpartition(".")
        default = "" if leaf.default is None else f"`{leaf.default}`"
        allowed = " | ".join(f"`{choice}`" for choice in leaf.choices) if leaf.choices else leaf.range
        row = [f"`{name}`", leaf.type.__name__, default, cell(allowed), cell(leaf.doc), "yes" if leaf.resume else ""]
        groups.setdefault(group if dot else "run", []).append(row)
    lines = [
        "## Settings", "",
        "Every leaf of every config; `crate-jax inspect --config=NAME` prints the values of one. An empty default",
        "below `model.` is what the network's name says, elsewhere it is unset. *Resume*: the setting may change when",
        "a run resumes; any other difference is refused.", "",
    ]  # fmt: skip
    for group, rows in groups.items():
        lines += [f"### Settings: {group}", ""]
        lines += [*table(["setting", "type", "default", "allowed", "meaning", "resume"], rows), ""]
    return lines


def config_lines():
    """The section of the installed configs."""
    from crate_jax.config_files import arguments_of, installed_configs

    rows = []
    for name, (path, argument) in sorted(installed_configs().items()):
        if argument is None:
            first = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
            rows.append([f"`{name}`", cell(", ".join(f"`{one}`" for one in arguments_of(path))), cell(first)])
    return [
        "## Configs", "",
        "A config is named (`--config=quickstart`), takes one argument (`--config=imagenet:large`, also",
        "`--config=imagenet_large`), or is a file (`--config=experiments/mine.py`, `--config=RUN/config.json`).", "",
        *table(["name", "argument", "what it is"], rows), "",
    ]  # fmt: skip


def find_definition(module, name):
    """(node, docstring) of a function or class, without importing its module."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node, ast.get_docstring(node)
    raise LookupError(f"{module} defines no {name}")


def api_lines():
    """The section of the public names."""
    import crate_jax

    lines = ["## Python", "", "Names of `crate_jax`; each loads when it is first used.", ""]
    for name, module in sorted(crate_jax._HOME.items()):
        node, docstring = find_definition(module, name)
        if isinstance(node, ast.FunctionDef):
            lines += described_name("###", f"crate_jax.{name}", signature_of(node), docstring)
            continue
        lines += described_name("###", f"crate_jax.{name}", f"class {name}", docstring)
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                title, text = f"{name}.{method.name}", ast.get_docstring(method)
                lines += described_name("####", title, signature_of(method), text)
    return lines


def signature_of(node):
    """A function's name and arguments, or a property's name, as text."""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    if any(isinstance(one, ast.Name) and one.id == "property" for one in node.decorator_list):
        return f"{node.name}{returns}"
    arguments = ast.unparse(node.args).removeprefix("self").removeprefix(", ")
    return f"{node.name}({arguments}){returns}"


def described_name(level, title, signature, docstring):
    """Lines of Markdown: a heading, and a signature with its docstring."""
    return [f"{level} {title}", "", "```text", signature, "", *(docstring or "").splitlines(), "```", ""]


def page():
    """The text of the page."""
    lines = [*command_lines(), *setting_lines(), *config_lines(), *api_lines()]
    return HEAD + "\n" + "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def main():
    """Writes or checks the page."""
    sys.path.insert(0, str(ROOT))
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.read_text() == page() else 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
