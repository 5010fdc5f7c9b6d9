"""The page that ``fewshot discover`` writes: whole in itself, safe whatever the names are, and alive in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fewshot.cli.discover.charts import heat_map
from fewshot.cli.shared import page as shared_page
from fewshot.cli.shared.words import percent

from fewshot.discovery.profiles import Step
from fewshot.evaluation.discovery import FoundClasses, TrueClass
from fewshot.evaluation.discovery.summary import lineage_words
from fewshot.features import load_features
from fewshot.features.images.pictures import thumbnails
from tests.kits.cli import fewshot
from tests.kits.discovery import ColumnDiscovery, PlainDiscovery, column_pool, use_discoverer

ROOT = Path(__file__).parents[2]
HOSTILE = '</script><script>alert("1")</script>'
SIZES = {"crow": 40, HOSTILE: 30, "owl & co": 25, "tit": 15}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """The elements of a page, and the text of each kind; every element is closed in its place."""

    VOID = ("meta", "img", "input", "link", "br", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts.setdefault(tag, []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.texts["script"][0])
        return found


def discovered(folder: Path, *words: object) -> Path:
    """Run the command on a pool with hostile names and return the page."""
    path = folder / "birds.safetensors"
    column_pool(SIZES)[0].save(path)
    result = fewshot("discover", "--features", path, "--out", folder / "found", "--quiet", *words)
    assert result.exit_code == 0, result.output
    return folder / "found" / "report.html"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        use_discoverer(patch, "discovery", ColumnDiscovery)
        return discovered(tmp_path_factory.mktemp("report"), "--n-known", 2, "--map-rows", 60, "--seed", 99)


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report.read_text(encoding="utf-8"))


# --- the page as it lies ----------------------------------------------------------------------------------------------


def test_the_answer_is_the_headline(page: Page) -> None:
    assert "".join(page.texts["h1"]) == "4 classes: 2 known, 2 new"
    assert page.texts["title"][0] == "4 classes: 2 known, 2 new · fewshot discover"
    assert "made up" in page.texts["li"]


def test_names_are_text_and_never_code(report: Path, page: Page) -> None:
    text = report.read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert len(page.all("script")) == 2
    assert [entry["name"] for entry in page.data["classes"]][:2] == ["crow", HOSTILE]
    assert HOSTILE in page.texts["button"]
    assert any(attributes.get("data-name") == HOSTILE for attributes in page.all("tr"))


def test_names_of_pictures_are_escaped() -> None:
    assert shared_page.picture(None, '"><b>', "", 64) == (
        '<span class="none" title="&quot;&gt;&lt;b&gt;">could not be read: &quot;&gt;&lt;b&gt;</span>'
    )


def test_nothing_is_fetched(report: Path, page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    style = "".join(page.texts["style"])
    assert "@import" not in style
    assert "url(" not in style
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\b *\(", report.read_text(encoding="utf-8"))


def test_every_class_has_a_row_new_ones_first_and_larger_ones_first(page: Page) -> None:
    rows = [attributes for attributes in page.all("tr") if "data-name" in attributes]
    assert [row["data-name"] for row in rows] == ["new-01", "new-02", "crow", HOSTILE]
    assert [row["data-known"] for row in rows] == ["0", "0", "1", "1"]
    assert [row["data-rows"] for row in rows][:2] == ["25", "15"]
    buttons = [attributes["data-class"] for attributes in page.all("button") if "data-class" in attributes]
    assert buttons == ["2", "3", "0", "1"]


def test_where_there_are_no_pictures_rows_are_named(page: Page) -> None:
    assert page.all("img") == []
    listed = "".join(page.texts["p"])
    assert "tit/0" in listed
    assert "found: typical" in listed


def test_the_map_holds_every_row(page: Page) -> None:
    points = page.data["map"]
    n = sum(SIZES.values())
    assert [len(points[name]) for name in ("x", "y", "c", "p", "l")] == [n] * 5
    assert min(points["x"] + points["y"]) == 0
    assert max(points["x"] + points["y"]) == 4095
    truth = [number for number, size in enumerate(SIZES.values()) for _ in range(size)]
    assert points["c"] == truth
    assert points["l"].count("1") == 35
    places = np.stack([points["x"], points["y"]], axis=1)
    labels = np.array(truth)
    distance = np.linalg.norm(places[:, None] - places, axis=-1) + 9e9 * np.eye(n)
    assert np.mean(labels[distance.argmin(1)] == labels) > 0.9


def test_controls_have_names_and_headers_say_how_they_sort(page: Page) -> None:
    assert ("html", {"lang": "en"}) in page.elements
    heads = [attributes for attributes in page.all("th") if attributes.get("scope") == "col"]
    assert sum("aria-sort" in attributes for attributes in heads) == 4
    assert all(attributes.get("aria-label") for attributes in page.all("canvas") + page.all("svg"))
    labels = "".join(page.texts["label"])
    assert all(word in labels for word in ("Search", "Show", "Sort by", "Colour", "Class"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [attributes["aria-labelledby"] for attributes in page.all("section")]
    assert set(named) <= set(ids)


def test_the_rounds_and_the_truth_are_drawn(page: Page) -> None:
    labels = [attributes["aria-label"] for attributes in page.all("svg")]
    assert labels == ["Number of classes by round: 2, 3, 4"]
    words = "".join(page.texts["section"])
    assert "There are 4 classes, 4 were found: off by 0.0 %." in words
    cells = page.data["confusion"]["cells"]
    assert [(row, column, share) for row, column, _, share in cells] == [(place, place, 1.0) for place in range(4)]
    assert sum(count for _, _, count, _ in cells) == 75


def test_what_is_not_there_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_discoverer(monkeypatch, "discovery", PlainDiscovery)
    words = ("--unlabelled", "tit", "--map-rows", 0)
    page = Page(discovered(tmp_path, *words).read_text(encoding="utf-8"))
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == ["classes", "about"]
    assert (page.data["map"], page.data["confusion"], page.data["ids"]) == (None, None, None)


def test_confusion_is_ordered_by_the_matching() -> None:
    classes = [
        TrueClass("a", True, 5, "y", 0.8, 0.5),
        TrueClass("b", False, 4, None, 0.0, 0.0),
        TrueClass("c", False, 2, "x", 1.0, 0.5),
    ]
    confusion = {"x": {"c": 2, "b": 1}, "y": {"a": 4, "b": 3}, "z": {"a": 1}}
    told = heat_map(classes, confusion)
    assert (told["classes"], told["clusters"]) == (["a", "b", "c"], ["y", "x", "z"])
    expected = {(0, 0, 4, 0.8), (1, 0, 3, 0.75), (2, 1, 2, 1.0), (1, 1, 1, 0.25), (0, 2, 1, 0.2)}
    assert {tuple(cell) for cell in told["cells"]} == expected


def test_a_share_below_all_is_never_all() -> None:
    assert [percent(share) for share in (0.29, 0.9999, 1.0, 0.0, float("nan"))] == ["29 %", "99 %", "100 %", "0 %", "–"]


def test_the_words_of_a_lineage_name_what_is_left_and_number_what_is_gone() -> None:
    steps = (Step(3, "merge", 8, (8, 6)), Step(2, "split", 8, (5,)), Step(0, "shed", 5, (0,)))
    found = FoundClasses("", ["crow", "new-01"], 1, *[torch.zeros(1)] * 3, [0, 8], [], [], [])
    said = "took in #6 (round 4); split off #5 (round 3); #5 left crow (round 1)"
    assert lineage_words(steps, found) == said


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_the_digits_are_drawn_from_their_pixels() -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow, of the extra images, is not installed")
    pool = load_features("digits")
    done: list[int] = []
    found = thumbnails(pool, [3, 1000], side=96, progress=done.append)
    assert found is not None
    assert (list(found), done) == ([3, 1000], [1, 2])
    for row, picture in found.items():
        assert picture is not None
        pixels = np.asarray(image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))), dtype=float)
        expected = 1 - pool.features[row].reshape(8, 8).numpy()
        np.testing.assert_allclose(pixels[3::6, 3::6] / 255, expected, atol=0.51 / 255)


# --- the page in a browser --------------------------------------------------------------------------------------------


def shown(report: Path, state: str = "") -> Page:
    """Return the page after its script has run, with the state that the address asks for."""
    assert BROWSER is not None
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    words += [f"--user-data-dir={report.parent / 'profile'}", f"file://{report}#{state}"]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if "<html" not in result.stdout:
        pytest.skip(f"the browser does not start here: {result.stderr[-200:]}")
    return Page(result.stdout)


def rows_of(page: Page) -> list[str | None]:
    rows = [attributes for attributes in page.all("tr") if "data-name" in attributes]
    return [attributes["data-name"] for attributes in rows if "hidden" not in attributes]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_page_lives_in_a_browser(report: Path) -> None:
    found = shown(report, "q=new&sort=rows&dir=ascending&class=new-02&colour=class")
    assert ("html", {"lang": "en", "data-ready": "1"}) in found.elements  # the script ran to its end
    assert rows_of(found) == ["new-02", "new-01"]
    assert "2 of 4 classes shown" in found.texts["output"]
    pressed = [a["data-class"] for a in found.all("button") if a.get("aria-pressed") == "true"]
    assert pressed == ["3"]
    sorts = [attributes.get("aria-sort") for attributes in found.all("th") if "aria-sort" in attributes]
    assert sorts == ["none", "ascending", "none", "none"]
    assert all(int(canvas["width"] or 0) > 100 for canvas in found.all("canvas"))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_known_classes_sorted_by_name(report: Path) -> None:
    found = shown(report, "show=known&sort=name&dir=descending")
    assert rows_of(found) == ["crow", HOSTILE]
    assert "2 of 4 classes shown" in found.texts["output"]
