"""Extraction: features by a loop over files, the same bytes however often it is killed, and every failure told."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fewshot.features import ExtractSettings, FeatureStore, extract, extract_store, load_features
from fewshot.features.extraction.loop import extract_shards
from fewshot.features.store.layout import StoreFolder
from fewshot.features.store.writing import StoreLock, delete_store, part_of
from tests.kits.extraction import contents, tiny_extractor, write_images

Image = pytest.importorskip("PIL.Image", reason="pillow, of the extra images, is not installed")

ROOT = Path(__file__).parents[2]
SIZES = {"crow": 5, "owl": 3, "wren": 6}
N = sum(SIZES.values())
SMALL = ExtractSettings(shard_size=4, batch_size=3)


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", SIZES)


def by_a_loop(images):
    """Features of one image at a time, in the order of the paths' bytes."""
    made = tiny_extractor()
    paths = sorted(images.rglob("*.png"), key=lambda path: path.relative_to(images).as_posix().encode())
    rows = [made(made.preprocess.apply(Image.open(path))[None])[0] for path in paths]
    return [path.relative_to(images).as_posix() for path in paths], torch.stack(rows)


def run(images, out, *, n_workers=0, rank=0, world_size=1, progress=None, **settings):
    place = {"n_workers": n_workers, "rank": rank, "world_size": world_size}
    return extract_store(tiny_extractor(), images, out, replace(SMALL, **settings), **place, progress=progress).run


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("float16", 1e-3)])
@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_store_holds_the_features_of_a_loop_over_files(images, tmp_path, dtype, error, n_workers):
    result = run(images, tmp_path / "store", dtype=dtype, n_workers=n_workers)
    ids, features = by_a_loop(images)
    store = FeatureStore.open(tmp_path / "store")
    pool = store.load()
    assert (result.n_done, result.n_found_done, result.n_elsewhere) == (N, 0, 0)
    assert pool.ids == tuple(ids)
    assert pool.class_names == tuple(SIZES)
    assert [pool.class_names[label] for label in pool.labels.tolist()] == [name.partition("/")[0] for name in ids]
    torch.testing.assert_close(pool.features, features, rtol=error, atol=error)
    torch.testing.assert_close(torch.cat(list(store.chunks(3))), pool.features, rtol=0, atol=0)
    assert {len(chunk) for chunk in store.chunks(3)} == {3, 1, 2}


def test_load_features_opens_a_store_and_so_does_extract_in_memory(images, tmp_path):
    run(images, tmp_path / "store", dtype="float32")
    pool, in_memory = load_features(tmp_path / "store"), extract(tiny_extractor(), images)
    assert pool.ids == in_memory.ids
    assert torch.equal(pool.labels, in_memory.labels)
    torch.testing.assert_close(pool.features, in_memory.features, rtol=1e-6, atol=1e-6)
    assert pool.source["extractor_key"] == in_memory.source["extractor_key"] == tiny_extractor().key


def test_a_second_run_computes_nothing(images, tmp_path):
    run(images, tmp_path / "store")
    before = contents(tmp_path / "store")

    def refuse(*_):
        raise AssertionError("the network was called")

    made = tiny_extractor()
    made.network.register_forward_hook(refuse)
    result = extract_store(made, images, tmp_path / "store", SMALL, n_workers=0)
    assert (result.run.n_done, result.run.n_found_done, result.is_finished) == (0, N, True)
    assert contents(tmp_path / "store") == before


@pytest.mark.parametrize("n_workers", [0, 1])
def test_the_number_of_workers_and_of_processes_changes_no_byte(images, tmp_path, n_workers):
    run(images, tmp_path / "one")
    for rank in (2, 0, 1):
        run(images, tmp_path / "three", rank=rank, world_size=3, n_workers=n_workers)
    assert contents(tmp_path / "three") == contents(tmp_path / "one")


def test_the_number_of_processes_may_change_between_starts(images, tmp_path):
    run(images, tmp_path / "one")
    assert run(images, tmp_path / "more", rank=1, world_size=2).n_done == 6
    assert run(images, tmp_path / "more", rank=0, world_size=3).n_done == 4
    assert run(images, tmp_path / "more").n_done == 4
    assert contents(tmp_path / "more") == contents(tmp_path / "one")


def test_a_shard_that_another_process_holds_is_left_to_it(images, tmp_path):
    run(images, tmp_path / "store", rank=1, world_size=2)
    code = (
        "import sys; from pathlib import Path; from fewshot.features.store.writing import StoreLock, part_of\n"
        "lock = StoreLock(Path(sys.argv[1])); print(lock.acquire(part_of(2)), flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "store"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert holder.stdout.readline() == "True\n"
    try:
        result = run(images, tmp_path / "store")
        assert (result.n_done, result.n_found_done, result.n_elsewhere) == (4, 6, 4)
    finally:
        holder.kill()
        holder.communicate()
    assert run(images, tmp_path / "store").n_done == 4  # a killed process holds nothing


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path):
    images = write_images(tmp_path / "images", {"crow": 9, "wren": 8})
    extract_store(tiny_extractor(), images, tmp_path / "whole", replace(SMALL, batch_size=2), n_workers=0)
    words = [sys.executable, "-m", "tests.kits.extraction", images, tmp_path / "killed", "12", "5"]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    n_stores = int(result.stdout)
    assert n_stores >= 1
    for number in range(n_stores):
        assert contents(tmp_path / "killed" / f"store-{number}") == contents(tmp_path / "whole")


@pytest.fixture
def reads(monkeypatch):
    """The shards whose record is read, in order."""
    read, shards = StoreFolder.record, []
    monkeypatch.setattr(StoreFolder, "record", lambda store, shard: shards.append(shard) or read(store, shard))
    return shards


def test_the_record_of_a_finished_shard_is_read_once_in_a_run(images, tmp_path, reads):
    whole = extract_store(tiny_extractor(), images, tmp_path / "store", SMALL, n_workers=0)
    assert (reads, whole.is_finished, whole.run.n_done) == ([], True, N)
    extract_store(tiny_extractor(), images, tmp_path / "store", SMALL, n_workers=0)
    assert reads == [0, 1, 2, 3]
    reads.clear()
    half = extract_store(tiny_extractor(), images, tmp_path / "half", SMALL, n_workers=0, rank=1, world_size=2)
    assert (reads, half.is_finished) == ([], False)
    other = extract_store(tiny_extractor(), images, tmp_path / "half", SMALL, n_workers=0, rank=0, world_size=2)
    assert (reads, other.is_finished) == ([1, 3], True)


def test_a_store_is_opened_and_loaded_with_one_read_of_each_record(images, tmp_path, reads):
    run(images, tmp_path / "store")
    FeatureStore.open(tmp_path / "store").load()
    assert reads == [0, 1, 2, 3]


def test_the_result_has_the_failures_and_notes_of_all_runs(images, tmp_path):
    (images / "owl" / "001.png").write_bytes(b"")
    Image.open(images / "crow" / "000.png").convert("CMYK").save(images / "crow" / "000.png", format="TIFF")
    Image.open(images / "wren" / "000.png").convert("L").save(images / "wren" / "000.png")
    run(images, tmp_path / "store", rank=1, world_size=2)
    result = extract_store(tiny_extractor(), images, tmp_path / "store", SMALL, n_workers=0)
    assert [(failure.id, failure.code) for failure in result.failures] == [("owl/001.png", "empty")]
    assert result.notes == {"cmyk": 1, "grayscale": 1}
    again = extract_store(tiny_extractor(), images, tmp_path / "store", SMALL, n_workers=0)
    assert again[1:] == (again.store, True, result.failures, result.notes, result.left_out)


def test_not_to_resume_is_to_begin_anew(images, tmp_path):
    run(images, tmp_path / "store", dtype="float32")
    result = extract_store(tiny_extractor(), images, tmp_path / "store", SMALL, n_workers=0, is_resumed=False)
    assert (result.run.n_done, result.store.head.dtype) == (N, "float16")


def test_ray_needs_an_extractor_that_was_built_by_name(images, tmp_path):
    with pytest.raises(ValueError, match="the engine ray builds extractors by name, got a module or function"):
        run(images, tmp_path / "store", engine="ray")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float61"}, "unknown dtype 'float61': did you mean 'float16'"),
        ({"engine": "spark"}, "unknown engine 'spark'"),
        ({"shard_size": 0}, "shard_size must be positive, got 0"),
        ({"batch_size": -1}, "batch_size must be positive, got -1"),
    ],
)
def test_settings_check_themselves(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        ExtractSettings(**settings)


def test_a_broken_shard_is_done_again_and_a_changed_one_is_found(images, tmp_path):
    run(images, tmp_path / "store")
    before, store = contents(tmp_path / "store"), StoreFolder(tmp_path / "store")
    store.array_path(1).write_bytes(before["shard-00001.npy"][:-40])
    assert store.finished(1) is None
    assert run(images, tmp_path / "store").n_done == 4
    assert contents(tmp_path / "store") == before
    assert store.damaged_shards() == []
    changed = bytearray(before["shard-00002.npy"])
    changed[-3] ^= 1
    store.array_path(2).write_bytes(changed)
    assert store.damaged_shards() == [2]


def test_an_unreadable_image_has_a_line_in_the_manifest_and_no_row(images, tmp_path):
    ids, features = by_a_loop(images)
    (images / "owl" / "001.png").write_bytes(b"")
    (images / "wren" / "005.png").write_bytes((images / "wren" / "000.png").read_bytes()[:60])
    Image.open(images / "crow" / "000.png").convert("CMYK").save(images / "crow" / "000.png", format="TIFF")
    run(images, tmp_path / "store", dtype="float32")
    store = FeatureStore.open(tmp_path / "store")
    assert {name: failure.code for name, failure in store.failures.items()} == {
        "owl/001.png": "empty",
        "wren/005.png": "truncated",
    }
    assert store.failures["owl/001.png"].text.startswith("owl/001.png: ")
    assert StoreFolder(tmp_path / "store").record(0).notes == {0: ("cmyk",)}
    kept = [row for row, name in enumerate(ids) if name not in store.failures]
    pool = store.load()
    assert pool.ids == tuple(ids[row] for row in kept)
    torch.testing.assert_close(pool.features[1:], features[kept[1:]], rtol=1e-6, atol=1e-6)
    assert np.all(store.folder.array(1)[2] == 0)


def test_a_store_of_nothing_readable_says_so(tmp_path):
    write_images(tmp_path / "images", {"crow": 2})
    for path in (tmp_path / "images" / "crow").iterdir():
        path.write_bytes(b"no image")
    run(tmp_path / "images", tmp_path / "store")
    with pytest.raises(ValueError, match=r"none of the 2 images could be read, such as crow/000.png: "):
        load_features(tmp_path / "store")


def test_an_unfinished_store_is_not_opened(images, tmp_path):
    run(images, tmp_path / "store", rank=0, world_size=2)
    with pytest.raises(ValueError, match=r"is not finished: 2 of 4 shards are missing: run the command that made it"):
        FeatureStore.open(tmp_path / "store")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float32"}, "(dtype is 'float16' there and 'float32' here)"),
        ({"shard_size": 5}, "(shard_size is 4 there and 5 here)"),
        ({"labels": "none"}, "(class_names is ['crow', 'owl', 'wren'] there and [] here)"),
    ],
)
def test_a_store_is_not_mixed_with_other_settings(images, tmp_path, change, message):
    run(images, tmp_path / "store")
    with pytest.raises(ValueError, match="holds a store with other contents") as caught:
        run(images, tmp_path / "store", **change)
    assert message in str(caught.value)


def test_a_store_is_not_mixed_with_another_extractor_or_other_images(images, tmp_path):
    run(images, tmp_path / "store")
    before = contents(tmp_path / "store")
    with pytest.raises(ValueError, match=r"\(extractor\.weights is 'sha256:.*' there and 'sha256:.*' here\)"):
        extract_store(tiny_extractor(seed=1), images, tmp_path / "store", ExtractSettings(shard_size=4))
    (images / "crow" / "000.png").rename(images / "crow" / "zzz.png")
    with pytest.raises(ValueError, match=r"\(images_sha256 is "):
        run(images, tmp_path / "store")
    assert contents(tmp_path / "store") == before


def test_a_folder_with_other_files_is_left_alone(images, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for call in (lambda: run(images, tmp_path), lambda: delete_store(tmp_path)):
        with pytest.raises(ValueError, match="holds other files"):
            call()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "notes.txt"]


def test_a_store_is_deleted_whole_and_nothing_is_no_store(images, tmp_path):
    run(images, tmp_path / "store")
    delete_store(tmp_path / "store")
    delete_store(tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_values_that_float16_cannot_hold_are_refused_by_name(images, tmp_path):
    made = tiny_extractor()
    made.network.register_forward_hook(lambda _module, _inputs, output: output * 1e6)
    with pytest.raises(ValueError, match=r"a feature of crow/000\.png is \d.*more than float16 can hold: start anew"):
        extract_store(made, images, tmp_path / "store", ExtractSettings(shard_size=4), n_workers=0)
    with pytest.raises(ValueError, match="is not finished"):
        FeatureStore.open(tmp_path / "store")


def test_a_network_that_returns_nan_is_refused_by_image(images, tmp_path):
    made = tiny_extractor()
    made.network.register_forward_hook(lambda _module, _inputs, output: output * float("nan"))
    with pytest.raises(ValueError, match=r"the network's output for crow/000\.png is not finite"):
        extract_store(made, images, tmp_path / "store", ExtractSettings(shard_size=4), n_workers=0)


def test_without_labels_a_store_is_unlabelled(tmp_path):
    write_images(tmp_path / "images", {"all": 5})
    run(tmp_path / "images", tmp_path / "store", labels="none")
    pool = load_features(tmp_path / "store")
    assert (pool.labels.tolist(), pool.class_names) == ([-1] * 5, ())
    with pytest.raises(ValueError, match="no row has a label"):
        pool.labelled()


def test_progress_counts_every_image(images, tmp_path):
    seen = []
    run(images, tmp_path / "store", progress=seen.append)
    assert seen[0] == (0, 0, N)
    assert seen[-1].n_done >= N - 3
    assert seen == sorted(seen)


def test_the_list_of_images_is_read_in_shards(images, tmp_path):
    run(images, tmp_path / "store")
    store = StoreFolder(tmp_path / "store")
    listed = [record.id for shard in range(store.head.n_shards) for record in store.images(shard)]
    assert listed == by_a_loop(images)[0]
    lines = (tmp_path / "store" / "images.jsonl").read_text().splitlines()
    assert [json.loads(line)[0] for line in lines] == listed


def test_a_lock_is_one_per_part(tmp_path):
    with StoreLock(tmp_path) as lock:
        assert lock.acquire(part_of(3))
        lock.release(part_of(3))
    assert part_of(0) != 0


def test_no_shards_is_nothing_done(images, tmp_path):
    run(images, tmp_path / "store", rank=0, world_size=2)
    result = extract_shards(tiny_extractor(), StoreFolder(tmp_path / "store"), [], batch_size=2, n_workers=0)
    assert result.n_done == 0
