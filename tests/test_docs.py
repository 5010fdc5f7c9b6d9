"""README says what the program says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from fewshot.cli.main import cli

from fewshot.registry.episodic import METHODS
from fewshot.registry.incremental import INCREMENTAL_METHODS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    words.split()
    for words in (
        "classify",
        "extract",
        "import",
        "inspect",
        "probe",
        "extractors",
        "episode",
        "report",
        "train unem",
        "tune",
        "calibrate",
        "learn",
        "predict",
        "forget",
        "discover",
        "distill",
        "methods",
    )
]


def help_text(command: list[str]) -> str:
    """Return a command's help as a terminal of 100 columns shows it."""
    result = CliRunner().invoke(cli, [*command, "--help"], prog_name="fewshot", terminal_width=100)
    assert result.exit_code == 0
    return result.output.rstrip()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_readme_holds_the_help_as_it_is(command):
    assert f"```text\n{help_text(command)}\n```" in README


def test_every_command_is_in_readme():
    known = {" ".join(command) for command in COMMANDS}
    for name in cli.list_commands(context := click.Context(cli)):
        command = cli.get_command(context, name)
        names = [f"{name} {sub}" for sub in command.commands] if hasattr(command, "commands") else [name]
        assert set(names) <= known


def test_readme_names_every_method():
    for name in (*METHODS, *INCREMENTAL_METHODS):
        assert f"`{name}`" in README


def test_every_reference_key_is_in_readmes_list():
    sources = "\n".join(path.read_text() for path in (ROOT / "fewshot").rglob("*.py"))
    keys = set(re.findall(r"^ {4}\[([A-Z]+)\] ", sources, re.MULTILINE))
    assert {"UNEM", "PADDLE", "EMD"} <= keys
    for key in keys:
        assert f"| [{key}] |" in README


def test_python_in_readme_runs():
    session = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    test = doctest.DocTestParser().get_doctest(session, {}, "README.md", "README.md", 0)
    assert len(test.examples) >= 5
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test).failed == 0
