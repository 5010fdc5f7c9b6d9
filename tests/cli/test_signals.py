"""A command that is ended by a signal cleans up, says so in one line, and its exit code names the signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fewshot.storage.scratch import scratch_folder

ROOT = Path(__file__).parents[2]
# A command that works in a scratch folder until it is ended; a second signal comes while it cleans up.
COMMAND = """
import os, shutil, signal, sys, time
import click
from fewshot.cli import group, main
from fewshot.storage import scratch
from fewshot.cli.shared import output

own = shutil.rmtree
def slow(*args, **settings):
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(0.05)
    own(*args, **settings)

@click.command()
def work():
    with scratch.scratch_folder() as folder, output.Progress("images", is_quiet=True):
        (folder / "file").write_text("x")
        scratch.shutil.rmtree = slow
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, b"x")
            time.sleep(60)
        os.read(reader, 1)
        os.kill(child, getattr(signal, name))
        print("child", os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
        time.sleep(60)

group.CommandGroup.get_command = lambda self, context, name: work
group.CommandGroup.list_commands = lambda self, context: ["work"]
name, sys.argv[1:] = sys.argv[1], ["work"]
main.main()
"""


def start(place: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, name],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(place)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_it_ends_as_by_an_interrupt(tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    with start(tmp_path, name) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"child {number.value}\n", "a child ends as if there were no handler"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "Interrupted before any images were done\n")
    assert os.listdir(tmp_path) == []


def test_the_next_command_removes_the_scratch_folder_of_a_killed_one_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fewshot-of-mine").mkdir()
    with start(tmp_path, "SIGTERM") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.communicate(timeout=60)
    assert len(os.listdir(tmp_path)) == 2
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder() as outer, scratch_folder() as inner:
        assert set(os.listdir(tmp_path)) == {"fewshot-of-mine", outer.name, inner.name}
        assert outer.stat().st_mode & 0o777 == 0o700
    assert os.listdir(tmp_path) == ["fewshot-of-mine"]


IGNORED = """
import os, signal
from fewshot.cli.shared.signals import answering_signals
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with answering_signals():
    os.kill(os.getpid(), signal.SIGHUP)
    print("goes on")
"""


def test_a_command_under_nohup_goes_on(tmp_path: Path) -> None:
    told = subprocess.run([sys.executable, "-c", IGNORED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "goes on\n"
