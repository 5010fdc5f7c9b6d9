"""`fewshot extract` and `inspect` as a user drives them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fewshot.cli.main import cli

from fewshot.features import ExtractSettings, extract_store, extractor, load_features
from tests.kits.extraction import contents, write_images

pytest.importorskip("PIL", reason="pillow, of the extra images, is not installed")

ROOT = Path(__file__).parents[2]
SIZES = {"crow": 5, "owl": 3, "wren": 6}
N = sum(SIZES.values())
# The smallest network at hand that needs no package but torch: a diffusion U-Net of random weights.
UNET = {
    "image_size": 8, "num_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 2], "attention_resolutions": [4],
    "num_head_channels": 16,
}  # fmt: skip


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", SIZES)


@pytest.fixture
def unet(tmp_path):
    path = tmp_path / "unet.json"
    path.write_text(json.dumps(UNET))
    return ("--extractor", "adm", "--weights", "random", "--layer", "2", "--option", f"config={path}")


def fewshot(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], prog_name="fewshot")


def document(*words: object, code: int = 0) -> dict[str, Any]:
    result = fewshot(*words, "--json", *(["--quiet", "--workers", 0] if words[0] == "extract" else []))
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def extracted(images, out, *words, code=0):
    return document(
        "extract", "--images", images, "--out", out, "--shard-size", 4, "--batch-size", 3, *words, code=code
    )


def test_images_in_and_accuracies_out(images, tmp_path, unet):
    told = extracted(images, tmp_path / "store", *unet)
    assert told["store"] == {
        "path": str(tmp_path / "store"), "is_finished": True, "n_images": N, "n_shards": 4,
        "class_names": list(SIZES), "dtype": "float16",
    }  # fmt: skip
    assert (told["run"]["n_done"], told["failures"], told["notes"], told["warnings"]) == (N, [], {}, [])
    assert told["extractor"]["key"] == load_features(tmp_path / "store").source["extractor_key"]
    words = ("--features", tmp_path / "store", "--n-way", 2, "--n-shot", 1, "--n-query", 2, "--n-episodes", 5)
    assert document("episode", *words, "--method", "unem")["features"]["n"] == N


def test_the_same_command_again_does_nothing_and_no_resume_starts_anew(images, tmp_path, unet):
    extracted(images, tmp_path / "store", *unet)
    before = contents(tmp_path / "store")
    again = extracted(images, tmp_path / "store", *unet)["run"]
    assert (again["n_done"], again["n_found_done"]) == (0, N)
    anew = extracted(images, tmp_path / "store", *unet, "--no-resume", "--dtype", "float32")
    assert (anew["run"]["n_done"], anew["store"]["dtype"]) == (N, "float32")
    assert contents(tmp_path / "store") != before


def test_a_python_call_writes_the_same_store_and_gives_the_same_numbers(images, tmp_path, unet):
    (images / "owl" / "000.png").write_bytes(b"")
    told = document("extract", "--images", images, "--out", tmp_path / "command", *unet)
    config = unet[-1].partition("=")[2]
    network = extractor("adm", "random", layers=("2",), config=config)
    result = extract_store(network, images, tmp_path / "python", n_workers=0)
    assert contents(tmp_path / "python") == contents(tmp_path / "command")
    figures = {name: value for name, value in result.run._asdict().items() if not name.startswith("seconds")}
    assert figures == {name: told["run"][name] for name in figures}
    assert [failure._asdict() for failure in result.failures] == told["failures"]
    assert (network.key, result.is_finished) == (told["extractor"]["key"], told["store"]["is_finished"])
    assert asdict(ExtractSettings()) == {name: told["settings"][name] for name in asdict(ExtractSettings())}


def test_layers_stand_side_by_side_and_one_can_be_named(images, tmp_path, unet):
    extracted(images, tmp_path / "both", *unet, "--layer", "3", "--dtype", "float32")
    whole, third = load_features(tmp_path / "both"), load_features(f"{tmp_path / 'both'}:3")
    alone = ("--extractor", "adm", "--weights", "random", "--layer", "3", *unet[-2:])
    extracted(images, tmp_path / "alone", *alone, "--dtype", "float32")
    assert whole.features.shape[1] > third.features.shape[1]
    assert third.features.allclose(load_features(tmp_path / "alone").features, rtol=1e-5, atol=1e-6)
    result = fewshot("episode", "--features", f"{tmp_path / 'both'}:9")
    assert (result.exit_code, result.stderr) == (1, "Error: unknown layer '9'. Known: 2, 3\n")


def test_failures_are_told_and_max_failures_decides_the_exit_code(images, tmp_path, unet):
    (images / "owl" / "000.png").write_bytes(b"")
    (images / "wren" / "001.png").write_bytes(b"no image")
    told = extracted(images, tmp_path / "store", *unet)
    assert [failure["id"] for failure in told["failures"]] == ["owl/000.png", "wren/001.png"]
    assert [failure["code"] for failure in told["failures"]] == ["empty", "unreadable"]
    assert told["warnings"][0].startswith(
        "2 images could not be read and are left out (1 empty, 1 unreadable): owl/000"
    )
    for n, code in ((2, 0), (1, 1)):
        assert extracted(images, tmp_path / "store", *unet, "--max-failures", n, code=code)["run"]["n_done"] == 0
    listed = document("inspect", tmp_path / "store")["store"]
    assert listed["failures"] == told["failures"]
    assert document("inspect", tmp_path / "store")["pool"]["n"] == N - 2


def test_labels_come_from_a_table_or_not_at_all(images, tmp_path, unet):
    (tmp_path / "birds.csv").write_text("file,label\nowl/002.png,night\ncrow/004.png,day\n")
    extracted(images, tmp_path / "two", *unet, "--labels", tmp_path / "birds.csv")
    pool = load_features(tmp_path / "two")
    assert (pool.ids, pool.class_names, pool.labels.tolist()) == (
        ("crow/004.png", "owl/002.png"),
        ("day", "night"),
        [0, 1],
    )
    extracted(images, tmp_path / "none", *unet, "--labels", "none")
    result = fewshot("episode", "--features", tmp_path / "none")
    assert result.exit_code == 1
    assert "no row has a label" in result.stderr


@pytest.mark.skipif(find_spec("timm") is None, reason="timm, of the extra images, is not installed")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--extractor", "adm:no_such", "--weights", "random"], "unknown"),
        (["--extractor", "nobody:x"], "Error: unknown family of extractors 'nobody'. Known: adm, "),
        (["--option", "sise=32"], "Error: unknown option of efficientnet_lite 'sise': did you mean 'size'? Known: "),
        (["--option", "size=big"], "Error: efficientnet_lite:size must be a whole number, got 'big'"),
    ],
)
def test_wrong_words_are_answered_before_any_work(images, tmp_path, words, message):
    result = fewshot("extract", "--images", images, "--out", tmp_path / "store", *words)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_folder_without_images_is_an_error(tmp_path, unet, folder):
    (tmp_path / "empty").mkdir()
    result = fewshot("extract", "--images", tmp_path / folder, "--out", tmp_path / "store", *unet)
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert not (tmp_path / "store").exists()


def test_processes_of_a_launcher_share_the_work(images, tmp_path, unet):
    extracted(images, tmp_path / "one", *unet)
    words = ["extract", "--images", images, "--out", tmp_path / "two", "--shard-size", 4, "--batch-size", 3, *unet]
    command = [sys.executable, "-m", "fewshot", *map(str, words), "--workers", "0", "--json"]
    started = [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, "RANK": rank, "WORLD_SIZE": "2"}, stdout=subprocess.PIPE)
        for rank in ("0", "1")
    ]
    told = [json.loads(process.communicate()[0]) for process in started]
    assert [run["run"]["n_done"] for run in told] == [8, 6]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_an_interrupt_says_how_far_it_came_and_the_same_command_goes_on(tmp_path, unet):
    images = write_images(tmp_path / "images", {"crow": 400})
    words = ["extract", "--images", images, "--out", tmp_path / "store", "--shard-size", 4, "--batch-size", 1, *unet]
    command = [sys.executable, "-m", "fewshot", *map(str, words), "--workers", "0"]
    # What a shell starts in the background, perhaps these tests, ignores Ctrl-C: the child must not inherit that.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, handler)
    while not (tmp_path / "store" / "shard-00001.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.startswith("Interrupted after ")
    assert err.endswith("; the same command goes on from there\n")
    result = fewshot("inspect", tmp_path / "store")
    assert result.exit_code == 0
    assert " of 100 shards done" in result.stdout
    assert "is not finished" in fewshot("episode", "--features", tmp_path / "store").stderr


HOLDER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from fewshot.features.store.writing import StoreLock, part_of
lock = StoreLock(Path(sys.argv[1]))
print(lock.acquire(part_of(0)), flush=True)
input()
"""


def test_a_second_run_says_that_another_is_at_work_and_a_killed_one_holds_nothing(images, tmp_path, unet):
    store = tmp_path / "store"
    extracted(images, store, *unet)
    (store / "shard-00000.json").unlink()
    words = ("extract", "--images", images, "--out", store, "--shard-size", 4, "--batch-size", 3, *unet, "--workers", 0)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, store], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert holder.stdout.readline() == "True\n"
        second = fewshot(*words)
        assert second.exit_code == 1
        assert "  this run  nothing: another process is at work on 4 images; 10 were done before\n" in second.stdout
        assert "Warning: another process is at work on 4 images of this store" in second.stderr
        refused = fewshot(*words, "--no-resume")
        assert refused.exit_code == 1
        assert f"another process is at work on the store {store}: wait for it" in refused.stderr
        assert (store / "shard-00001.json").exists()
    finally:
        holder.kill()
        holder.communicate()
    assert extracted(images, store, *unet)["run"]["n_done"] == 4


def test_a_disk_without_space_for_the_features_is_refused_before_the_work(images, tmp_path, unet, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    result = fewshot("extract", "--images", images, "--out", tmp_path / "store", *unet, "--workers", 0)
    assert result.exit_code == 1
    assert f"Error: the disk of {tmp_path / 'store'} has 100 bytes free, and the features need " in result.stderr
    assert not list((tmp_path / "store").glob("*.npy.tmp"))
    assert not list((tmp_path / "store").glob("shard-*"))


def test_inspect_verifies_and_draws(images, tmp_path, unet):
    pytest.importorskip("matplotlib", reason="matplotlib, of the extra plots, is not installed")
    extracted(images, tmp_path / "store", *unet)
    told = document("inspect", tmp_path / "store", "--verify", "--plot", tmp_path / "map.png")
    assert told["damaged_shards"] == []
    assert told["pool"]["classes"] == SIZES
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    shard = tmp_path / "store" / "shard-00002.npy"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x00")
    result = fewshot("inspect", tmp_path / "store", "--verify")
    assert (result.exit_code, "DAMAGED: shards [2]" in result.stdout) == (1, True)


def test_inspect_reads_any_features():
    told = document("inspect", "digits")
    assert (told["pool"]["n"], told["pool"]["n_features"], told["store"]) == (1797, 64, None)
    assert "1,797 of 64 features" in fewshot("inspect", "digits").stdout


def test_stores_of_two_extractors_are_not_mixed(images, tmp_path, unet):
    extracted(images, tmp_path / "clean", *unet)
    extracted(images, tmp_path / "noisy", *unet, "--option", "t=300")
    result = fewshot("probe", "--features", tmp_path / "clean", "--test", tmp_path / "noisy")
    assert result.exit_code == 1
    assert "come from different extractors" in result.stderr
    assert "90" in result.stderr
    assert "300" in result.stderr


def test_ray_writes_the_same_store(images, tmp_path, unet):
    pytest.importorskip("ray", reason="ray, of the extra ray, is not installed")
    extracted(images, tmp_path / "local", *unet)
    words = ["extract", "--images", images, "--out", tmp_path / "ray", "--shard-size", 4, "--batch-size", 3, *unet]
    command = [
        sys.executable,
        "-m",
        "fewshot",
        *map(str, words),
        "--workers",
        "0",
        "--engine",
        "ray",
        "--json",
    ]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["run"]["n_done"] == N
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


def test_files_that_are_no_images_are_counted(images, tmp_path, unet):
    for name in ("a.nef", "crow/notes.txt", ".hidden"):
        (images / name).write_bytes(b"")
    result = fewshot("extract", "--images", images, "--out", tmp_path / "s", *unet, "--workers", 0, "--quiet")
    words = "left out 1 image of a kind that is not read, 1 other file, 1 hidden file"
    assert words in " ".join(result.stdout.split())
    assert "Warning: images of kinds that are not read are left out: 1 camera raw, such as a.nef" in result.stderr
    told = extracted(images, tmp_path / "t", *unet)
    assert told["store"]["n_images"] + told["left_out"]["n"] == sum(path.is_file() for path in images.rglob("*"))
