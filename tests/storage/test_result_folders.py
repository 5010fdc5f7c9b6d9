"""Folders of results: filled in place, whole or not at all, whatever the folder is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fewshot.storage import result_folders
from fewshot.storage.result_folders import check_out, filling_folder, settle

NAMES = ("summary.json", "a.csv", "b.html")


def fill(folder: Path, text: str) -> None:
    with filling_folder(str(folder)) as temporary:
        for name in NAMES:
            (temporary / name).write_text(text)


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def whole(text: str) -> dict[str, str]:
    return dict.fromkeys(NAMES, text)


def test_the_folder_of_a_shell_stays_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tmp_path.stat().st_ino
    monkeypatch.chdir(tmp_path)
    fill(Path("."), "old")
    fill(Path("."), "new")
    assert texts(tmp_path) == whole("new")
    assert (tmp_path.stat().st_ino, os.getcwd()) == (before, str(tmp_path))


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_a_link_and_its_target_is_filled(tmp_path: Path, is_there: bool) -> None:
    (tmp_path / "disk").mkdir()
    target = tmp_path / "disk" / "results"
    if is_there:
        target.mkdir()
    (tmp_path / "out").symlink_to(target)
    fill(tmp_path / "out", "new")
    assert (tmp_path / "out").is_symlink()
    assert texts(target) == whole("new")
    assert sorted(os.listdir(tmp_path)) == ["disk", "out"]


def test_a_folder_keeps_its_permissions_and_its_other_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o2775)
    (out / ".of-a-disk").write_text("mine")
    fill(out, "new")
    assert out.stat().st_mode & 0o7777 == 0o2775
    assert texts(out) == whole("new") | {".of-a-disk": "mine"}


def test_an_error_leaves_the_old_files_and_nothing_else(tmp_path: Path) -> None:
    def fail(out: Path) -> None:
        with filling_folder(str(out)) as temporary:
            (temporary / "a.csv").write_text("new")
            raise OSError("no space left on device")

    out = tmp_path / "out"
    with pytest.raises(OSError, match="no space left"):
        fail(out)
    assert not out.exists()
    fill(out, "old")
    with pytest.raises(OSError, match="no space left"):
        fail(out)
    assert texts(out) == whole("old")


def test_an_interrupt_between_two_files_waits_for_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "out", "old")
    replace, calls = os.replace, []

    def interrupted(source: Any, target: Any) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(result_folders.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out", "new")
    assert texts(tmp_path / "out") == whole("new")


KILLED = """
import os, signal, sys
from pathlib import Path
from fewshot.storage import result_folders
replace, calls = os.replace, []
def counted(source, target):
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(target)
    replace(source, target)
result_folders.os.replace = counted
with result_folders.filling_folder(sys.argv[1]) as temporary:
    for name in ("summary.json", "a.csv", "b.html"):
        (temporary / name).write_text("new")
        if sys.argv[2] == "-1":
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("n_moved", "kept"), [(-1, "old"), (0, "new"), (1, "new"), (2, "new")])
def test_a_killed_writer_leaves_all_old_or_all_new_files_to_the_next(tmp_path: Path, n_moved: int, kept: str) -> None:
    out = tmp_path / "out"
    fill(out, "old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out), str(n_moved)], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    if n_moved >= 0:
        assert json.dumps((out / "summary.json").read_text()) == '"old"', "the index moves last"
    settle(str(out))
    assert texts(out) == whole(kept)
    fill(out, "newest")
    assert texts(out) == whole("newest")


def test_the_check_before_the_work_sees_a_finished_result(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".fewshot-ready").mkdir(parents=True)
    (out / ".fewshot-ready" / "summary.json").write_text('{"kind": "demo"}')
    (out / ".fewshot-new").mkdir()
    (out / "lost+found").mkdir()
    assert check_out(str(out), ["summary.json"], "demo")
    assert sorted(os.listdir(out)) == ["lost+found", "summary.json"]


HOLDING = """
import sys, time
from fewshot.storage.result_folders import filling_folder
with filling_folder(sys.argv[1]) as temporary:
    print("holds", flush=True)
    time.sleep(1)
    (temporary / "summary.json").write_text("first")
"""


def test_two_writers_take_turns(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(out)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "holds\n"
        start = time.monotonic()
        fill(out, "second")
        assert time.monotonic() - start > 0.5
        assert other.wait(60) == 0
    assert texts(out) == whole("second")
