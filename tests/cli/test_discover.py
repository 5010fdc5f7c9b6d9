"""``fewshot discover`` as a user drives it: what it writes, what it refuses, and what it says."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fewshot.cli.discover import command as discover_command

from fewshot.features import load_features
from fewshot.features.images.decode import decode
from fewshot.features.images.folders import export_folders, safe_names
from fewshot.features.images.pictures import ImageFiles, _small, image_files, thumbnails
from fewshot.features.images.records import ImageRecord
from fewshot.features.partial_labels import read_partial_labels
from tests.kits.cli import document, fails, fewshot, succeeds
from tests.kits.discovery import ColumnDiscovery, PlainDiscovery, column_pool, use_discoverer
from tests.kits.extraction import tiny_extractor, write_images

SIZES = {"crow": 9, "jay": 7, "owl": 8, "tit": 5}
FAST = ("--map-rows", 0, "--quiet")


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default method is one whose answer is known beforehand."""
    use_discoverer(monkeypatch, "discovery", ColumnDiscovery)
    use_discoverer(monkeypatch, "kmeans", PlainDiscovery)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Crows and jays labelled in part; owls and tits are new."""
    path = tmp_path / "birds.safetensors"
    column_pool(SIZES, n_unlabelled={"crow": 4, "jay": 3, "owl": 8, "tit": 5})[0].save(path)
    return path


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "labelled.safetensors"
    column_pool(SIZES)[0].save(path)
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return found


# --- what is written --------------------------------------------------------------------------------------------------


def test_a_line_a_row_says_its_class(tmp_path: Path, pool: Path) -> None:
    told = document("discover", "--features", pool, "--out", tmp_path / "found", *FAST)
    rows = read(tmp_path / "found" / "assignments.csv")
    loaded = load_features(pool)
    assert list(rows[0]) == [
        "row", "file", "cluster", "class", "is_known_class", "is_labelled", "probability", "outlier_score",
    ]  # fmt: skip
    names = {"crow": "crow", "jay": "jay", "owl": "new-01", "tit": "new-02"}
    expected = [names[name] for name, size in SIZES.items() for _ in range(size)]
    assert [row["class"] for row in rows] == expected
    assert [int(row["row"]) for row in rows] == list(range(29))
    assert [row["file"] for row in rows] == list(loaded.ids or ())
    assert [int(row["cluster"]) for row in rows] == [list(names.values()).index(name) for name in expected]
    assert [row["is_known_class"] for row in rows] == ["true"] * 16 + ["false"] * 13
    assert [row["is_labelled"] == "true" for row in rows] == (loaded.labels >= 0).tolist()
    probability = (2 * loaded.features.double()).softmax(1).max(1).values
    assert [float(row["probability"]) for row in rows] == pytest.approx(probability.tolist(), rel=1e-4)
    assert [float(row["outlier_score"]) for row in rows] == pytest.approx((1 - probability).tolist(), abs=1e-5)
    assert told["n_rows"] == 29


def test_the_summary_counts_and_is_what_json_prints(tmp_path: Path, pool: Path) -> None:
    told = document("discover", "--features", pool, "--out", tmp_path / "found", "--seed", 3, *FAST)
    assert summary_of(tmp_path / "found") == told
    names = ("kind", "format_version", "n_rows", "n_labelled", "n_unlabelled", "n_classes", "n_known", "n_new")
    assert [told[name] for name in names] == ["fewshot discovery", 1, 29, 9, 20, 4, 2, 2]
    assert [row["name"] for row in told["classes"]] == ["crow", "jay", "new-01", "new-02"]
    assert [row["n_rows"] for row in told["classes"]] == [9, 7, 8, 5]
    assert [row["n_labelled"] for row in told["classes"]] == [5, 4, 0, 0]
    assert [row["n_unlabelled"] for row in told["classes"]] == [4, 3, 8, 5]
    assert [row["nearest_known"] for row in told["classes"]][:2] == ["jay", "crow"]
    assert told["classes"][2]["came_from"] == "left crow (round 1)"
    assert told["classes"][3]["came_from"] == "split off new-01 (round 2); new-01 left crow (round 1)"
    assert (told["settings"]["seed"], told["method"]) == (3, "ColumnDiscovery(random_state=3)")
    assert [row["n_classes"] for row in told["trace"]] == [3, 4]
    assert [row["is_accepted"] for row in told["proposals"]] == [True, False, True]
    assert told["features"]["path"] == str(pool)
    assert (told["scores"], told["warnings"]) == (None, [])


def test_means_of_probabilities_are_those_of_unlabelled_rows(tmp_path: Path, pool: Path) -> None:
    told = document("discover", "--features", pool, "--out", tmp_path / "found", *FAST)
    rows = read(tmp_path / "found" / "assignments.csv")
    for row in told["classes"]:
        own = [float(r["probability"]) for r in rows if r["class"] == row["name"] and r["is_labelled"] == "false"]
        assert row["mean_probability"] == pytest.approx(np.mean(own), abs=1e-5)
        assert row["n_unsure"] == sum(probability < 0.5 for probability in own)


def test_the_probability_of_a_labelled_row_is_that_of_its_label(tmp_path: Path, pool: Path) -> None:
    loaded = load_features(pool)
    features = loaded.features.clone()
    features[0] = features[9]  # a crow that looks like a jay
    replace(loaded, features=features).save(pool)
    succeeds("discover", "--features", pool, "--out", tmp_path / "found", *FAST)
    row = read(tmp_path / "found" / "assignments.csv")[0]
    assert row["class"] == "crow"
    assert float(row["probability"]) == pytest.approx(float((2 * features[0]).softmax(0)[0]), rel=1e-4)
    assert float(row["probability"]) < 0.1
    assert [entry["n_unsure"] for entry in summary_of(tmp_path / "found")["classes"]] == [0, 0, 0, 0]


def test_a_method_without_a_trace_will_do(tmp_path: Path, pool: Path) -> None:
    words = ("discover", "--features", pool, "--out", tmp_path / "found", "--method", "kmeans", "--n-classes", 4, *FAST)
    told = document(*words)
    assert (told["trace"], told["proposals"], told["method"]) == ([], [], "PlainDiscovery(n_classes=4)")
    assert "outlier_score" not in read(tmp_path / "found" / "assignments.csv")[0]
    assert all(row["lineage"] == [] for row in told["classes"])


def test_the_lines_say_the_answer(tmp_path: Path, pool: Path) -> None:
    said = succeeds("discover", "--features", pool, "--out", tmp_path / "found", *FAST)
    lines = said.splitlines()
    assert lines[0] == "4 classes: 2 known, 2 new"
    assert lines[1] == "Of 20 unlabelled rows, 7 are of known classes and 13 of new ones."
    assert lines[-1] == f"  look at   {tmp_path / 'found'}/report.html"
    assert "  rows      9 labelled rows of 2 classes" in lines
    assert any(line.split()[:2] == ["new-01", "8"] for line in lines)


def test_a_warning_of_the_method_reaches_the_user_and_the_report(tmp_path: Path, pool: Path) -> None:
    result = fewshot("discover", "--features", pool, "--out", tmp_path / "found", "--seed", 99, *FAST)
    assert (result.exit_code, result.stderr) == (0, "Warning: made up\n")
    assert summary_of(tmp_path / "found")["warnings"] == ["made up"]
    assert "<li>made up</li>" in (tmp_path / "found" / "report.html").read_text(encoding="utf-8")


def test_the_same_command_writes_the_same_bytes(tmp_path: Path, pool: Path) -> None:
    words = ("discover", "--features", pool, "--map-rows", 20, "--quiet")
    files = []
    for _ in range(2):
        state = torch.random.get_rng_state()
        succeeds(*words, "--out", tmp_path / "found", "--overwrite")
        assert torch.equal(torch.random.get_rng_state(), state)
        files.append({path.name: path.read_bytes() for path in (tmp_path / "found").iterdir()})
    assert files[0] == files[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["birds.safetensors", "found"]
    assert set(files[0]) == {"assignments.csv", "summary.json", "report.html"}


# --- which rows are unlabelled ----------------------------------------------------------------------------------------


def test_a_labelled_pool_is_split_and_scored(tmp_path: Path, labelled: Path) -> None:
    words = ("discover", "--features", labelled, "--out", tmp_path / "found", *FAST)
    told = document(*words, "--known-classes", "owl,crow", "--labelled-fraction", 0.4, "--seed", 2)
    assert (told["n_known"], told["n_labelled"]) == (2, int(0.4 * 17))
    assert [row["name"] for row in told["classes"]] == ["crow", "owl", "new-01", "new-02"]
    assert told["protocol"] == (
        "40 % of the rows of 2 known classes keep their labels, the rest of them and all rows of 2 other classes are "
        "held out (seed 2)"
    )
    scores = told["scores"]
    assert (scores["n_scored"], scores["n_old"], scores["n_new"]) == (29 - 6, 17 - 6, 12)
    assert scores["accuracy"]["v2"] == {"all": 1.0, "old": 1.0, "new": 1.0}
    assert scores["accuracy"]["orca"]["old"] == 1.0  # a known class has the number of its class
    assert (scores["n_found"], scores["n_classes"], scores["n_classes_error"]) == (4, 4, 0.0)
    found_as = {row["class"]: row["found_as"] for row in scores["classes"]}
    assert found_as == {"crow": "crow", "jay": "new-01", "owl": "owl", "tit": "new-02"}
    assert scores["confusion"]["new-01"] == {"jay": 7}
    assert {row["truth"] for row in read(tmp_path / "found" / "assignments.csv")} == set(SIZES)


def test_known_classes_can_be_counted_drawn_or_read(tmp_path: Path, labelled: Path) -> None:
    def known(*words: object) -> list[str]:
        told = document("discover", "--features", labelled, "--out", tmp_path / "f", "--overwrite", *FAST, *words)
        return [row["name"] for row in told["classes"] if row["is_known"]]

    assert known("--n-known", 3) == ["crow", "jay", "owl"]
    assert known("--known-classes", "1-2") == ["jay", "owl"]
    drawn = [known("--known-classes", "random", "--n-known", 2, "--seed", seed) for seed in range(4)]
    assert all(len(names) == 2 for names in drawn)
    assert len({tuple(names) for names in drawn}) > 1
    (tmp_path / "ssb.json").write_text('{"known_classes": [3, 0]}')
    assert known("--known-classes", tmp_path / "ssb.json") == ["crow", "tit"]


def test_nothing_new_is_scored_as_undefined(tmp_path: Path, labelled: Path) -> None:
    words = ("discover", "--features", labelled, "--out", tmp_path / "found", "--n-known", 4, *FAST)
    told = document(*words)
    assert told["scores"]["accuracy"]["v2"] == {"all": 1.0, "old": 1.0, "new": None}
    assert "new undefined" in succeeds(*words, "--overwrite")


def test_a_class_can_stand_for_no_label(tmp_path: Path, labelled: Path) -> None:
    words = ("discover", "--features", labelled, "--out", tmp_path / "found", *FAST)
    told = document(*words, "--unlabelled", "jay", "--unlabelled", "tit")
    assert (told["n_unlabelled"], told["n_known"]) == (12, 2)
    assert [row["name"] for row in told["classes"]] == ["crow", "owl", "new-01", "new-02"]
    assert "no class 'jai' among 4 classes: did you mean 'jay'?" in fails(
        2, *words, "--overwrite", "--unlabelled", "jai"
    )


def test_a_class_that_stands_for_no_label_leaves_unlabelled_rows_alone(tmp_path: Path, pool: Path) -> None:
    told = document("discover", "--features", pool, "--out", tmp_path / "found", "--unlabelled", "crow", *FAST)
    assert (told["n_unlabelled"], told["n_known"]) == (25, 1)


@pytest.mark.filterwarnings("default")
def test_a_table_can_name_the_labelled_images_alone(tmp_path: Path, labelled: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("file,label\njay/001.png,Jay\n./crow/000.png,Crow\nno.png,Jay\ncrow/001.png,\n")
    result = fewshot("discover", "--features", labelled, "--labels", table, "--out", tmp_path / "f", "--json", *FAST)
    assert result.exit_code == 0, result.output
    assert result.stderr == f"Warning: {table} has 1 line of no row of the features, such as 'no.png'\n"
    told = json.loads(result.stdout)
    assert (told["n_labelled"], told["n_known"]) == (2, 2)
    rows = {row["file"]: row for row in read(tmp_path / "f" / "assignments.csv")}
    assert rows["jay/001.png"]["class"] == "Jay"
    assert rows["crow/001.png"]["is_labelled"] == "false"
    words = ("--labels", table, "--n-known", 1, "--labelled-fraction", 1, "--out", tmp_path / "g")
    assert "has 1 line of no row" in fewshot("discover", "--features", labelled, *words, *FAST).stderr


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "3\n-1\n\n05\n", ["3", -1, -1, "05"]),
        ("a.txt", "crow\n-1\n\n 7 \n", ["crow", -1, -1, "7"]),
        ("a.csv", 'label\ncrow\n""\n-1\n2\n', ["crow", -1, -1, "2"]),
        ("a.csv", "class,file\n1,d\n2,b\n", [-1, "2", -1, "1"]),
    ],
)
def test_labels_may_be_missing(tmp_path: Path, name: str, text: str, expected: list[object]) -> None:
    (tmp_path / name).write_text(text)
    assert read_partial_labels(str(tmp_path / name), ["a", "b", "c", "d"], 4) == expected


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "1\n2\n", "a.txt has 2 labels, and there are 4 rows: give one a row"),
        ("a.csv", "file,label\na,1\na,2\n", "a.csv names 'a' more than once: keep one row"),
        ("a.csv", "file,label\nx/a,1\n", "a.csv names none of the 4 rows: 'x/a' where the rows have 'a'"),
        ("a.csv", "file,species\na,1\n", "a.csv must have a column label, class, class_name, got file, species"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"a\.(csv|txt)") as error:
        read_partial_labels(str(tmp_path / name), ["a", "b", "c", "d"], 4)
    assert str(error.value).endswith(said)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_pool_without_an_unlabelled_row_is_refused_with_both_ways_out(tmp_path: Path, labelled: Path) -> None:
    assert fails(1, "discover", "--features", labelled, "--out", tmp_path / "found", *FAST) == (
        "Error: all 29 rows are labelled: mark some as unlabelled (-1 or an empty label in --labels, or --unlabelled "
        "CLASS), or hold some out to test with --n-known N or --known-classes LIST"
    )
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--labelled-fraction", 0.3),
            "--labelled-fraction needs --n-known or --known-classes",
        ),
        (("--known-classes", "random"), "--known-classes random needs --n-known, how many to draw"),
        (
            ("--known-classes", "0", "--n-known", 1),
            "--n-known is of no use beside the --known-classes themselves",
        ),
        (("--known-classes", "rook"), "--known-classes: no class 'rook' among 4 classes, 'crow' to 'tit'"),
        (("--copy",), "--link and --copy need --export-folders"),
        (("--n-classes", "many"), "needs a whole number from 1, or auto; got 'many'"),
        (("--method", "kmean"), "did you mean 'kmeans'?"),
    ],
)
def test_wrong_words_are_answered_with_the_right_ones(
    tmp_path: Path, labelled: Path, words: tuple[object, ...], said: str
) -> None:
    assert said in fails(2, "discover", "--features", labelled, "--out", tmp_path / "found", *words)
    assert not (tmp_path / "found").exists()


def test_a_folder_of_others_is_never_touched(tmp_path: Path, pool: Path) -> None:
    words = ("discover", "--features", pool, "--out", tmp_path / "found", *FAST)
    (tmp_path / "found").mkdir()
    succeeds(*words)  # an empty folder will do
    before = (tmp_path / "found" / "summary.json").read_bytes()
    assert fails(1, *words) == (
        f"Error: {tmp_path / 'found'} holds an earlier result: name another folder, or replace it with --overwrite"
    )
    succeeds(*words, "--overwrite")
    (tmp_path / "found" / "notes.txt").write_text("mine")
    assert "holds other files, such as notes.txt" in fails(1, *words, "--overwrite")
    assert (tmp_path / "found" / "notes.txt").read_text() == "mine"
    assert len(before) > 100
    other = tmp_path / "other"
    other.mkdir()
    (other / "summary.json").write_text('{"kind": "something else"}')
    assert "holds other files" in fails(1, *words[:4], other, "--overwrite", *FAST)
    assert "is a file: name a folder" in fails(1, *words[:4], pool, *FAST)
    assert "no such folder" in fails(1, *words[:4], tmp_path / "no" / "found", *FAST)


def test_a_failed_run_leaves_the_old_result_and_no_traces(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("discover", "--features", pool, "--out", tmp_path / "found", *FAST)
    succeeds(*words)
    before = {path: path.read_bytes() for path in (tmp_path / "found").iterdir()}

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(discover_command, "write_texts", full)
    assert fails(1, *words, "--overwrite") == "Error: no space left on device"
    assert {path: path.read_bytes() for path in (tmp_path / "found").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["birds.safetensors", "found"]


# --- pictures and folders ---------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of images in class folders, one of them of what nobody has sorted."""
    pytest.importorskip("PIL", reason="pillow, of the extra images, is not installed")
    from fewshot.features.extraction.to_store import ExtractSettings, extract_store

    images = write_images(tmp_path / "images", {"crow": 3, "jay": 4, "unsorted": 6})
    extract_store(tiny_extractor(), images, tmp_path / "store", ExtractSettings(shard_size=5), n_workers=0)
    return tmp_path / "store"


def test_a_store_has_pictures_and_one_that_is_gone_harms_nothing(tmp_path: Path, store: Path) -> None:
    (tmp_path / "images" / "unsorted" / "002.png").unlink()
    (tmp_path / "images" / "unsorted" / "003.png").write_bytes(b"no picture")
    words = ("discover", "--features", store, "--unlabelled", "unsorted", "--out", tmp_path / "found", *FAST)
    result = fewshot(*words)
    assert (result.exit_code, result.stderr) == (
        0,
        "Warning: 2 pictures of the report could not be read, such as unsorted/002.png: were images moved?\n",
    ), result.output
    page = (tmp_path / "found" / "report.html").read_text(encoding="utf-8")
    n_pictures = page.count('<img src="data:image/jpeg;base64,')
    assert page.count("could not be read: unsorted/00") == 2
    assert n_pictures >= 6 - 2 + 4  # what could be read, and two labelled ones of each known class


def picture_of(path: Path) -> Any:
    from PIL import Image

    files = ImageFiles(str(path.parent), [ImageRecord(path.name)])
    uri = _small(files, 0, 32)
    assert uri is not None
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_small_pictures_are_upright_and_those_of_the_decoder(tmp_path: Path, name: str, mode: str) -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow, of the extra images, is not installed")
    if (name, mode) == ("a.png", "CMYK"):
        pytest.skip("PNG has no CMYK")
    pixels = np.indices((90, 150))[1] * 1.6 + np.indices((90, 150))[0]
    large = image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((1500, 900)).convert(mode)
    if mode == "CMYK":
        large = image.merge(mode, (*large.split()[:3], image.new("L", large.size, 100)))
    exif = image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    large.save(tmp_path / name, exif=exif)
    small, exact = picture_of(tmp_path / name), decode(tmp_path / name).image
    assert small.size == (19, 32) == exact.resize((19, 32)).size
    difference = np.asarray(small, dtype=float) - np.asarray(exact.resize((19, 32)), dtype=float)
    assert np.abs(difference).mean() < 6


def exported(tmp_path: Path, store: Path, *words: object) -> dict[str, Path]:
    out = tmp_path / "sorted"
    succeeds(
        "discover", "--features", store, "--unlabelled", "unsorted", "--out", tmp_path / "found", *FAST,
        "--export-folders", out, *words,
    )  # fmt: skip
    return {str(path.relative_to(out)): path for path in sorted(out.rglob("*")) if not path.is_dir()}


@pytest.mark.parametrize("is_linked", [True, False])
def test_a_folder_for_each_class_holds_its_images(tmp_path: Path, store: Path, is_linked: bool) -> None:
    files = exported(tmp_path, store, "--link" if is_linked else "--copy")
    rows = read(tmp_path / "found" / "assignments.csv")
    assert set(files) == {f"{row['class']}/{row['file'].replace('/', '_')}" for row in rows}
    for row in rows:
        path, original = files[f"{row['class']}/{row['file'].replace('/', '_')}"], tmp_path / "images" / row["file"]
        assert path.is_symlink() == is_linked
        assert path.read_bytes() == original.read_bytes()


def test_folders_are_not_written_over_nor_without_images(tmp_path: Path, store: Path, pool: Path) -> None:
    (tmp_path / "sorted").mkdir()
    (tmp_path / "sorted" / "mine").write_text("")
    words = ("--out", tmp_path / "found", "--export-folders", tmp_path / "sorted", *FAST)
    assert "is not empty: name a new folder" in fails(1, "discover", "--features", store, *words)
    (tmp_path / "sorted" / "mine").unlink()
    assert fails(1, "discover", "--features", pool, *words) == (
        f"Error: --export-folders needs to know the images, and {pool} does not: use a store of fewshot extract"
    )
    assert not (tmp_path / "found").exists()


def test_images_inside_of_archives_are_written_out(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"....PIXELS....")
    files = ImageFiles(str(tmp_path), [ImageRecord("a.tar/x.png", None, 4, 6), ImageRecord("a.tar/y.png", None, 9, 99)])
    assert export_folders(str(tmp_path / "out"), files, torch.tensor([0, 0]), ["crow"], is_linked=True) == 1
    assert (tmp_path / "out" / "crow" / "a.tar_x.png").read_bytes() == b"PIXELS"


def test_features_saved_from_a_store_still_know_their_images(tmp_path: Path, store: Path) -> None:
    load_features(store).save(tmp_path / "f.safetensors")
    files = image_files(load_features(tmp_path / "f.safetensors"))
    assert files is not None
    assert files.ids == list(load_features(store).ids or ())
    assert files.place(0, tmp_path / "x.png", is_linked=False)
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "images" / files.ids[0]).read_bytes()


def test_a_store_of_archives_has_pictures_too(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="pillow, of the extra images, is not installed")
    from fewshot.features.extraction.to_store import extract_store

    images = write_images(tmp_path / "images", {"crow": 3})
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "a.tar", "w") as archive:
        for path in sorted(images.rglob("*.png")):
            archive.add(path, path.name)
    extract_store(tiny_extractor(), tmp_path / "tars", tmp_path / "store", n_workers=0)
    pool = load_features(tmp_path / "store")
    pictures = thumbnails(pool, [0, 1, 2], side=32, progress=lambda _: None)
    assert pictures is not None
    assert all(pictures.values())
    files = image_files(pool)
    assert files is not None
    assert files.place(1, tmp_path / "x.png", is_linked=True)
    assert (tmp_path / "x.png").read_bytes() == (images / "crow" / "001.png").read_bytes()


def test_names_of_files_are_safe_and_distinct() -> None:
    texts = ["a/b.jpg", "a_b.jpg", "A_B.JPG", "..", "CON", "St. Kilda wren", "é" * 200 + ".jpeg", "x\0y", "", "a<b>|c"]
    names = safe_names(texts)
    assert len({name.lower() for name in names}) == len(texts)
    assert not any(set(name) & set('/\\\0<>:"|?*') or name in ("", ".", "..") or name[-1] in ". " for name in names)
    assert all(len(os.fsencode(name)) < 200 for name in names)
    assert names[5] == "St. Kilda wren"
    assert names[6].endswith(".jpeg")


# --- help, and the real thing -----------------------------------------------------------------------------------------


def test_the_help_teaches_within_100_columns() -> None:
    said = fewshot("discover", "--help").stdout
    assert "\n  Example:\n    fewshot discover " in said
    assert max(map(len, said.splitlines())) <= 100


def test_the_example_of_the_help_runs_on_the_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the very words of the help, but for the map, which takes its seconds."""
    pytest.importorskip("fewshot.discovery.category_discovery", reason="the estimator is not there")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    examples = fewshot("discover", "--help").stdout.split("Example:\n")[1].split("\n\n")[0].splitlines()
    assert len(examples) == 2
    result = fewshot(*examples[0].split()[1:], "--map-rows", 0, "--quiet")
    assert result.exit_code == 0, result.output
    told = summary_of(tmp_path / "found")
    assert (told["n_rows"], told["n_known"], told["scores"]["n_scored"]) == (1797, 6, told["n_unlabelled"])
    assert told["scores"]["accuracy"]["v2"]["all"] > 0.5
    assert 0 < told["n_new"] < 20
    succeeds(*examples[1].split()[1:])
