"""Commands killed at random moments: ``python -m tests.tools.kill_commands [N [COMMAND ...]]``.

classify, discover, extract and learn are each started N times on small data, with two settings in turn, and ended by
SIGKILL or SIGTERM at a moment drawn from the time that a whole run takes. What is on disk then must be what a whole run
of either setting writes, and a whole run at the end leaves nothing besides. A store of extract is begun anew or gone on
with: what it ends with must be what a run without a kill writes. One line a command.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.tools.write_digits import write_digits

__all__ = ["main"]

N_KILLS = 50


class Case(NamedTuple):
    """A command's words, those of its two settings, and the file or folder that it writes."""

    words: tuple[str, ...]
    settings: tuple[tuple[str, ...], tuple[str, ...]]
    out: str
    is_resumed: bool = False


CASES = {
    "classify": Case(
        ("classify", "--support", "shots", "--query", "rest", "--out", "out", "--quiet"),
        (("--reject", "0.1"), ("--reject", "0.3")),
        "out",
    ),
    "discover": Case(
        (
            *("discover", "--features", "digits", "--n-known", "6", "--method", "kmeans", "--map-rows", "0"),
            *("--out", "out", "--overwrite", "--quiet"),
        ),
        (("--seed", "1"), ("--seed", "2")),
        "out",
    ),
    "extract": Case(
        ("extract", "--images", "shots", "--out", "out", "--shard-size", "8", "--batch-size", "4", "--quiet"),
        (("--workers", "0"), ("--workers", "1")),
        "out",
        is_resumed=True,
    ),
    "learn": Case(
        ("learn", "--model", "m.safetensors", "--features", "digits"), (("--classes", "0-5"), ("--classes", "6,7")), ""
    ),
}


def _digest(place: Path) -> str:
    """Return a hash of what a user sees of a file or a folder; "" where there is nothing."""
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    seen = [path for path in files if not path.name.startswith(".") and not path.parent.name.startswith(".fewshot")]
    texts = [f"{path.relative_to(place.parent)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in seen]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest() if texts else ""


def _hidden(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name != ".lock")


class _Runs:
    """One command in a folder of its own."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.folder, self.case = folder, case
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.out = folder / (case.out or "m.safetensors")

    def start(self, setting: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "fewshot", *self.case.words, *self.case.settings[setting]]
        root = str(Path(__file__).parents[2])
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": root, "TMPDIR": str(self.scratch)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def whole(self, setting: int) -> str:
        """Run it to its end; return the hash of what it wrote."""
        process = self.start(setting)
        _, err = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{self.case.words[0]} ended with {process.returncode}: {err.decode()}")
        return _digest(self.out)

    def killed(self, setting: int, number: signal.Signals, seconds: float) -> bool:
        """Kill it after some seconds; return whether it had not ended before."""
        process = self.start(setting)
        time.sleep(seconds)
        process.send_signal(number)
        process.communicate()
        return process.returncode not in (0, None)


def _scratch(runs: _Runs) -> list[str]:
    return [path.name for path in runs.scratch.glob("fewshot-*")]


def _tried(name: str, n_kills: int, seed: int) -> str:
    draw, counts = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_digits(folder / "shots", 4)
        write_digits(folder / "rest", 3, 10)
        runs = _Runs(folder, CASES[name])
        known = {"", runs.whole(0)}
        old = runs.out.read_bytes() if runs.out.is_file() else None
        start = time.monotonic()
        end = runs.whole(1)
        seconds = time.monotonic() - start
        known.add(end)
        for i in range(n_kills):
            if CASES[name].is_resumed and i % 5 == 0:
                subprocess.run(["rm", "-rf", str(runs.out)], check=True)
            if old is not None:  # a model is taught the same again, from the same file
                runs.out.write_bytes(old)
            setting = 1 if old is not None else (i // 2) % 2
            number = signal.SIGTERM if i % 2 else signal.SIGKILL
            counts["killed" if runs.killed(setting, number, draw.uniform(0, seconds)) else "ended before"] += 1
            counts["old or new" if CASES[name].is_resumed or _digest(runs.out) in known else "NEITHER"] += 1
            counts["with hidden files until the next run"] += bool(_hidden(folder) + _scratch(runs))
        if old is not None:
            runs.out.write_bytes(old)
        counts["LAST RUN DIFFERS"] += runs.whole(1) != end
        left = _hidden(folder) + _scratch(runs)
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{name}: {said}; left behind after a whole run: {', '.join(left) or 'nothing'}"


def main(words: list[str]) -> None:
    """Kill each command, and print a line for each."""
    n_kills, names = int(words[0]) if words else N_KILLS, words[1:] or list(CASES)
    for name in names:
        print(_tried(name, n_kills, seed=0), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
