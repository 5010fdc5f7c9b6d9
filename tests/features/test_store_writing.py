"""A store's files are what they say, whoever was killed while writing them, and one writer waits for another."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewshot.features.images.records import ImageRecord
from fewshot.features.store.layout import Failure, ShardRecord, StoreSettings
from fewshot.features.store.writing import (
    StoreLock,
    create_store,
    delete_store,
    part_of,
    remove_temporaries,
    write_shard,
)

ROOT = Path(__file__).parents[2]
IMAGES = [ImageRecord(f"é{row}.png", name) for row, name in enumerate(["wren", "crow", None, "wren", "owl"])]
SETTINGS = StoreSettings(
    extractor={"name": "tiny"},
    extractor_key="1f",
    columns={},
    n_features=3,
    dtype="float32",
    shard_size=2,
    images_root="/images",
    about={"weights": "here"},
)
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def store(tmp_path):
    return create_store(tmp_path / "new" / "store", IMAGES, SETTINGS)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def another_process_holds(folder, part):
    code = (
        "import sys; from pathlib import Path; from fewshot.features.store.writing import StoreLock\n"
        "lock = StoreLock(Path(sys.argv[1])); print(lock.acquire(int(sys.argv[2])), flush=True); input()\n"
        "lock.release(int(sys.argv[2])); print('let go', flush=True); input()"
    )
    words = [sys.executable, "-c", code, folder, str(part)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout.readline() == "True\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def let_go(process):
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "let go\n"


def test_the_head_and_the_list_are_those_of_the_images(store):
    lines = [json.dumps(image).encode() + b"\n" for image in IMAGES]
    assert (store.path / "images.jsonl").read_bytes() == b"".join(lines)
    ends = np.cumsum([0, *map(len, lines)])
    np.testing.assert_array_equal(np.load(store.path / "images.offsets.npy"), ends[[0, 2, 4, 5]])
    assert store.head.images_sha256 == hashlib.sha256(b"".join(lines)).hexdigest()
    assert (store.head.n_images, store.head.n_shards, store.head.class_names) == (5, 3, ("crow", "owl", "wren"))
    assert store.images(1) == IMAGES[2:4]


def test_classes_are_sorted_whatever_order_they_come_in(tmp_path):
    letters = "qwertzuiopasdfghjklyxcvbnm"
    store = create_store(tmp_path, [ImageRecord(f"{letter}.png", letter) for letter in letters], SETTINGS)
    assert store.head.class_names == tuple("abcdefghijklmnopqrstuvwxyz")


def test_a_shards_line_says_what_its_file_is(store):
    failures = {1: Failure("empty", "b"), 0: Failure("truncated", "a")}
    write_shard(store, 1, ROWS, failures, {1: ("palette",), 0: ("cmyk", "1-bit")})
    written = store.array_path(1).read_bytes()
    text = store.record_path(1).read_text()
    assert text.endswith("}\n")
    assert list(json.loads(text)["failures"]) == list(json.loads(text)["notes"]) == ["0", "1"]
    assert store.record(1) == ShardRecord(
        1,
        2,
        hashlib.sha256(b"".join(json.dumps(image).encode() + b"\n" for image in IMAGES[2:4])).hexdigest(),
        len(written),
        hashlib.sha256(written).hexdigest(),
        failures,
        {0: ("cmyk", "1-bit"), 1: ("palette",)},
    )
    np.testing.assert_array_equal(np.load(store.array_path(1)), ROWS)


def test_what_killed_creators_and_writers_left_is_removed_by_the_next(store):
    before = names(store.path)
    left = {".images.jsonl.0a.tmp", ".images.offsets.npy.0b.tmp", ".store.json.0c.tmp"}
    shards = {".shard-00001.npy.0d.tmp", ".shard-00001.json.0e.tmp"}
    for name in left | shards | {".shard-00002.npy.0f.tmp"}:
        (store.path / name).touch()
    create_store(store.path, IMAGES, SETTINGS)
    assert not left & set(names(store.path))
    remove_temporaries(store, 1)
    assert set(names(store.path)) == {*before, ".shard-00002.npy.0f.tmp"}
    write_shard(store, 2, ROWS[:1], {}, {})
    assert set(names(store.path)) == {*before, "shard-00002.npy", "shard-00002.json"}


def test_a_folder_that_a_creator_was_killed_in_may_hold_a_store(tmp_path, store):
    for name in (".lock", "images.jsonl", "images.offsets.npy", ".images.jsonl.0a.tmp", ".store.json.0b.tmp"):
        (tmp_path / name).touch()
    (tmp_path / "new").rename(tmp_path.with_name(f"{tmp_path.name}-new"))
    create_store(tmp_path, IMAGES, SETTINGS)
    other = tmp_path.with_name(f"{tmp_path.name}-new") / "store"
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == {
        name: (other / name).read_bytes() for name in names(other)
    }


def test_where_the_images_lie_and_what_is_said_for_people_may_change(store):
    again = create_store(store.path, IMAGES, replace(SETTINGS, images_root="/elsewhere", about={}))
    assert again.head == store.head
    with pytest.raises(ValueError, match=r"holds a store with other contents \(extractor_key is '1f' there and '2e'"):
        create_store(store.path, IMAGES, replace(SETTINGS, extractor_key="2e"))


@pytest.mark.parametrize("name", ["notes.txt", "store.json.bak", "shard", "lock"])
def test_a_store_with_another_file_in_it_is_not_deleted(store, name):
    write_shard(store, 0, ROWS, {}, {})
    (store.path / name).touch()
    before = names(store.path)
    with pytest.raises(ValueError, match=f"holds other files than a store's, such as {name}: nothing was deleted"):
        delete_store(store.path)
    assert names(store.path) == before


def test_a_store_is_deleted_with_what_killed_writers_left(store):
    write_shard(store, 0, ROWS, {}, {})
    for name in (".images.jsonl.0a.tmp", ".store.json.0b.tmp", ".shard-00001.npy.0c.tmp"):
        (store.path / name).touch()
    delete_store(store.path)
    assert not store.path.exists()


def test_a_part_that_another_process_holds_is_not_to_be_had_and_its_neighbours_are(store):
    with another_process_holds(store.path, part_of(1)) as process, StoreLock(store.path) as lock:
        assert [lock.acquire(part_of(shard)) for shard in (0, 1, 2)] == [True, False, True]
        lock.release(part_of(0))
        let_go(process)
        assert lock.acquire(part_of(1))


def test_what_is_released_or_closed_is_free_for_another_process(store):
    with StoreLock(store.path) as lock:
        with lock.held(part_of(0)):
            pass
        lock.acquire(part_of(1))
        lock.release(part_of(1))
        lock.acquire(part_of(2))
        for part in (part_of(0), part_of(1)):
            with another_process_holds(store.path, part):
                pass
    with another_process_holds(store.path, part_of(2)):
        pass


def test_a_creator_waits_for_another(tmp_path):
    creator = threading.Thread(target=create_store, args=(tmp_path, IMAGES, SETTINGS))
    with another_process_holds(tmp_path, 0) as process:
        creator.start()
        creator.join(0.3)
        assert names(tmp_path) == [".lock"]
        let_go(process)
        creator.join()
    assert names(tmp_path) == [".lock", "images.jsonl", "images.offsets.npy", "store.json"]
