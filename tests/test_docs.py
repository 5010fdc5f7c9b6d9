"""README and the pages of the site say what the program says."""

from __future__ import annotations

import ast
import doctest
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from fewshot.cli.main import cli

from docs.extension.names import commands
from docs.extension.references import reference_keys
from fewshot.registry.discovery import DISCOVERY_METHODS
from fewshot.registry.episodic import METHODS
from fewshot.registry.incremental import INCREMENTAL_METHODS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
HELP = {"fewshot": cli, **{f"fewshot {name}": command for name, command in commands().items()}}


def blocks(language: str) -> dict[str, list[str]]:
    """Return the blocks of a language of each page that has some."""
    found = {
        name: re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE) for name, text in TEXTS.items()
    }
    return {name: parts for name, parts in found.items() if parts}


PYTHON = blocks("python")
SESSIONS = {name: "\n".join(parts) for name, parts in PYTHON.items() if any(">>>" in part for part in parts)}
SCRIPTS = [(name, part) for name, parts in PYTHON.items() for part in parts if ">>>" not in part]
LINES = [
    (name, line.replace("\\\n", " "))
    for name, parts in blocks("bash").items()
    for part in parts
    for line in re.findall(r"^fewshot (?:.*\\\n)*.*$", part, re.MULTILINE)
]


def test_readme_is_read_in_one_sitting():
    assert len(TEXTS["README.md"].splitlines()) <= 200


def test_readme_lists_every_command():
    context = cli.make_context("fewshot", ["methods"])
    rows = [f"| `fewshot {name}` | {cli.get_command(context, name).get_short_help_str(100)} |" for name in cli.commands]
    assert "\n".join(["| command | |", "|---|---|", *rows, ""]) in TEXTS["README.md"]


def test_the_numbers_of_methods_are_right():
    counts = len(METHODS), len(INCREMENTAL_METHODS), len(DISCOVERY_METHODS)
    words = "There are {} for episodes, {} incremental classifiers and {} for discovery".format(*counts)
    assert words in TEXTS["README.md"].replace("\n", " ")
    for count in counts:
        assert f"| {count} | `" in TEXTS["docs/methods/index.md"]


def test_every_reference_key_is_in_the_reference_list():
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "fewshot").rglob("*.py"))
    keys = set(re.findall(r"^ {4}\[([A-Z]+)\] ", sources, re.MULTILINE))
    assert {"UNEM", "PADDLE", "EMD"} <= keys <= reference_keys()


@pytest.mark.parametrize("page", SESSIONS)
def test_examples_run(page):
    test = doctest.DocTestParser().get_doctest(SESSIONS[page], {}, page, page, 0)
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test).failed == 0


def test_the_pages_with_examples_are_those_that_teach():
    taught = {"README.md", "docs/develop/add_a_method.md"}
    taught |= {
        f"docs/guide/{name}.md" for name in ("images", "episodes", "new_classes", "discovery", "features", "tuning")
    }
    assert taught <= set(SESSIONS)


@pytest.mark.parametrize(("page", "script"), SCRIPTS, ids=[page for page, _ in SCRIPTS])
def test_scripts_import_names_that_exist(page, script):
    imports = [node for node in ast.walk(ast.parse(script)) if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        for name in node.names:
            assert getattr(import_module(node.module), name.name)


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {line[:60]}" for page, line in LINES])
def test_command_lines_have_the_options_they_show(page, line):
    words = shlex.split(line, comments=True)
    name = next(" ".join(words[:n]) for n in (3, 2, 1) if " ".join(words[:n]) in HELP)
    options = {option for parameter in HELP[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= options | {"--help"}


def test_there_are_command_lines():
    assert len(LINES) > 25


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    for target in targets:
        assert (ROOT / target).exists(), target
