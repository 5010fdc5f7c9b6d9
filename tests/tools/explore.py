"""Draws new examples for the property tests for as long as it is given: `python -m tests.tools.explore SECONDS`."""

from __future__ import annotations

import random
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTEST = (sys.executable, "-m", "pytest", "--hypothesis-profile=explore", "-p", "no:cacheprovider")


def property_tests() -> list[str]:
    """Return the files that draw examples.

    Examples
    --------
    >>> "tests/test_em.py" in property_tests(), "tests/test_docs.py" in property_tests()
    (True, False)
    """
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in files if "from hypothesis import" in path.read_text()]


def failed_in(report: str) -> list[str]:
    """Return the tests that a report of pytest lists as failed.

    Examples
    --------
    >>> failed_in("1 failed\\nFAILED tests/test_em.py::test_bound[float32] - AssertionError: no\\n")
    ['tests/test_em.py::test_bound[float32]']
    """
    return re.findall(r"^(?:FAILED|ERROR) (\S+?::.+?)(?: - .*)?$", report, re.MULTILINE)


def explore(seconds: float, files: Sequence[str]) -> list[str]:
    """Run one file after the other, each time with a fresh seed, until the time is over.

    Returns
    -------
    list of str
        For each test that failed, the command that fails again.
    """
    end, n_runs, failures = time.monotonic() + seconds, 0, {}
    for path in cycle(random.sample(files, len(files))):
        seed, left = secrets.randbelow(2**32), end - time.monotonic()
        words = [*PYTEST, f"--hypothesis-seed={seed}", path]
        try:
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=max(left, 0))
        except subprocess.TimeoutExpired:
            break
        if done.returncode > 1:
            raise SystemExit(done.stdout + done.stderr)
        n_runs += 1
        for test in failed_in(done.stdout):
            failures.setdefault(test, f"pytest --hypothesis-profile=explore --hypothesis-seed={seed} '{test}'")
    print(f"{n_runs} runs over {len(files)} files, {len(failures)} tests failed")
    return list(failures.values())


if __name__ == "__main__":
    found = explore(float(sys.argv[1]), sys.argv[2:] or property_tests())
    sys.exit("\n".join(found))
