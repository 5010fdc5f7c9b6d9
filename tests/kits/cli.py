"""Running the command line in this process."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result
from fewshot.cli.main import cli


def fewshot(*words: object, **settings: Any) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], prog_name="fewshot", **settings)


def succeeds(*words: object) -> str:
    result = fewshot(*words)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def document(*words: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(succeeds(*words, "--json"))
    return found


def fails(code: int, *words: object) -> str:
    """Return the last line on stderr of a command that fails without writing to stdout."""
    result = fewshot(*words)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    lines = result.stderr.splitlines()
    assert code == 2 or len(lines) == 1, result.stderr
    return lines[-1]
