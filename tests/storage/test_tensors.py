"""What is on disk is whole, what comes back is what went in, and nothing else is opened."""

import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import SafetensorError
from safetensors.torch import save_file

from fewshot.storage import DiskFullError, check_free, load_tensors, replacing, save_tensors, write_text_atomic

posix_only = pytest.mark.skipif(os.name == "nt", reason="permissions and signals are POSIX's")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_]))
    return torch.from_numpy(draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))))


def bits(tensor):
    return tensor.numpy().tobytes()


@given(st.dictionaries(st.text(min_size=1, max_size=5), tensors(), max_size=3), st.dictionaries(st.text(), json_values))
def test_round_trip_is_bit_exact(tmp_path_factory, saved, metadata):
    path = tmp_path_factory.mktemp("storage") / "a.safetensors"
    saved.pop("__metadata__", None)
    save_tensors(path, saved, kind="demo", metadata=metadata)
    loaded, loaded_metadata = load_tensors(path, kind="demo")
    assert loaded_metadata == metadata
    assert {name: (x.dtype, x.shape, bits(x)) for name, x in loaded.items()} == {
        name: (x.dtype, x.shape, bits(x)) for name, x in saved.items()
    }


def test_bfloat16_and_strided_tensors_that_need_a_gradient_come_back(tmp_path):
    saved = {
        "half": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
        "strided": torch.arange(6.0).reshape(2, 3).T.requires_grad_(),
    }
    save_tensors(tmp_path / "a.safetensors", saved, kind="demo", metadata={})
    loaded, _ = load_tensors(tmp_path / "a.safetensors", kind="demo")
    assert all(torch.equal(loaded[name], saved[name]) and loaded[name].dtype == saved[name].dtype for name in saved)


def test_equal_contents_give_equal_bytes(tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(12)]
    for path in paths:
        save_tensors(path, {"a": torch.ones(2), "b": torch.zeros(3)}, kind="demo", metadata={"x": 1, "y": 2})
    assert len({path.read_bytes() for path in paths}) == 1


@pytest.mark.parametrize("failing", ["save_file", "os.fsync", "os.replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, failing, error):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.ones(2)}, kind="demo", metadata={})
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(f"fewshot.storage.tensors.{failing}", fail)
    with pytest.raises(type(error)):
        save_tensors(path, {"x": torch.zeros(3)}, kind="demo", metadata={})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@posix_only
def test_a_killed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.ones(2)}, kind="demo", metadata={})
    script = (
        "import os, signal, sys, torch; from fewshot.storage import tensors as storage\n"
        "storage.os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n"
        "storage.save_tensors(sys.argv[1], {'x': torch.zeros(3)}, kind='demo', metadata={})"
    )
    killed = subprocess.run([sys.executable, "-c", script, path], cwd=Path(__file__).parents[2], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert torch.equal(load_tensors(path, kind="demo")[0]["x"], torch.ones(2))


@posix_only
def test_the_file_is_on_disk_before_its_name_changes_and_the_folder_after(tmp_path, monkeypatch):
    events = []
    replace, fsync = os.replace, os.fsync

    def spy_fsync(descriptor):
        events.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        fsync(descriptor)

    def spy_replace(*paths):
        events.append("replace")
        replace(*paths)

    monkeypatch.setattr("fewshot.storage.tensors.os.fsync", spy_fsync)
    monkeypatch.setattr("fewshot.storage.tensors.os.replace", spy_replace)
    write_text_atomic(tmp_path / "a.txt", "x")
    assert events == ["fsync file", "replace", "fsync folder"]


@posix_only
def test_permissions_are_those_of_the_file_replaced_or_of_the_umask(tmp_path):
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    old.touch()
    old.chmod(0o640)
    umask = os.umask(0o027)
    os.umask(umask)
    for path in (old, new):
        save_tensors(path, {"x": torch.ones(1)}, kind="demo", metadata={})
    assert old.stat().st_mode & 0o777 == 0o640
    assert new.stat().st_mode & 0o777 == 0o666 & ~umask


def write_foreign(path):
    save_file({"x": torch.ones(1)}, path, metadata={"format": "pt"})


def write_newer(path):
    header = {"kind": "features", "format_version": 2, "metadata": {}}
    save_file({"x": torch.ones(1)}, path, metadata={"fewshot": json.dumps(header)})


def write_truncated(path):
    save_tensors(path, {"x": torch.ones(100)}, kind="features", metadata={})
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "expected a safetensors file, got something else or a part of one"),
        (
            lambda path: path.write_bytes(b"\x80\x04N."),
            "expected a safetensors file, got something else or a part of one",
        ),
        (write_truncated, "expected a safetensors file, got something else or a part of one"),
        (write_foreign, "expected 'features' saved by fewshot, got another program's safetensors file"),
        (write_newer, "expected format version 1, got 2: upgrade fewshot to read it"),
        (
            lambda path: save_tensors(path, {}, kind="unem", metadata={}),
            "expected 'features', got 'unem': pass a file saved as 'features'",
        ),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path, write, message):
    path = tmp_path / "a.safetensors"
    write(path)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")) as refused:
        load_tensors(path, kind="features")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["none.safetensors", ""])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"^no such file: {re.escape(str(tmp_path / name))}$"):
        load_tensors(tmp_path / name, kind="demo")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(f"no such folder: {tmp_path / 'none'}: create it")):
        write_text_atomic(tmp_path / "none" / "a.txt", "x")


def test_metadata_that_json_cannot_say_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_tensors(tmp_path / "a.safetensors", {}, kind="demo", metadata={"x": torch.ones(1)})
    assert list(tmp_path.iterdir()) == []


@given(st.text())
def test_text_is_written_as_it_is(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("storage") / "a.txt"
    write_text_atomic(path, text)
    assert path.read_bytes() == text.encode("utf-8")


def test_a_link_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "disk" / "real.txt")
    for text in ("old", "new"):
        write_text_atomic(tmp_path / "link.txt", text)
        assert (tmp_path / "link.txt").is_symlink()
        assert (tmp_path / "disk" / "real.txt").read_text() == text
    assert os.listdir(tmp_path / "disk") == ["real.txt"]


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is a device or a pipe: name a file"):
        write_text_atomic(tmp_path / "pipe", "text")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("30720 requested and 7136 written"),  # NumPy
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named(tmp_path, error, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=12_345))
    words = re.escape(f"the disk of {tmp_path} is full, or a quota on it is: 12.3 kB free: free some space, or name a")
    with pytest.raises(DiskFullError, match=words), replacing(tmp_path / "a.npy"):
        raise error
    assert os.listdir(tmp_path) == []
    with pytest.raises(OSError, match=r"^another"), replacing(tmp_path / "a.npy"):
        raise OSError("another")


def test_what_does_not_fit_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_000))
    check_free(tmp_path, 1_000, "results")
    words = re.escape(f"the disk of {tmp_path} has 1.0 kB free, and the results need 2.5 MB: free some space")
    with pytest.raises(DiskFullError, match=words):
        check_free(tmp_path, 2_500_000, "results")


KILLED = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from fewshot.storage import replacing
with replacing(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_writer_removes_what_a_killed_one_left_and_no_other(tmp_path):
    path, other = tmp_path / "a[1].txt", tmp_path / ".a[1].txt.a-name-of-mine.tmp"
    other.write_text("mine")
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=120)
    left = set(os.listdir(tmp_path)) - {other.name}
    assert len(left) == 1
    with replacing(path) as temporary:
        temporary.write_text("outer")
        assert set(os.listdir(tmp_path)) == {other.name, temporary.name}
        write_text_atomic(path, "inner")  # by a process that still runs
        assert temporary.exists()
    assert path.read_text() == "outer"
    assert set(os.listdir(tmp_path)) == {other.name, path.name}
