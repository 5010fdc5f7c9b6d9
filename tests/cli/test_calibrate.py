"""``fewshot calibrate`` and the incremental half of ``fewshot methods``, as a user drives them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from fewshot.cli.incremental.table import calibrate_report
from fewshot.cli.main import cli
from fewshot.cli.shared import options
from fewshot_episodes import SESSION_PROTOCOLS, SessionProtocol, incremental_sessions, published_sessions
from rich.console import Console

from fewshot.checks import SettingError
from fewshot.evaluation.sessions import SessionExperiment, SessionResults, evaluate_sessions, run_sessions
from fewshot.features import FeatureSet, load_features
from fewshot.metrics.classification import mean_interval
from fewshot.registry.incremental import INCREMENTAL_METHODS, build_classifier
from tests.kits.drawing import refuses

FEW = ("--features", "digits", "--draws", 3)
NAMES = ("crow", "gull", "jay", "owl", "tit", "wren")
_TIMES = ("learning_seconds", "answering_seconds")


def fewshot(*words: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, words)], prog_name="fewshot")


def succeeds(*words: object) -> str:
    result = fewshot("calibrate", *words)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def document(*words: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(succeeds(*words, "--json"))
    return found


def fails(code: int, *words: object) -> str:
    """Return the last line on stderr of a command that fails without writing to stdout."""
    result = fewshot("calibrate", *words)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    return result.stderr.splitlines()[-1]


def numbers(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a run found, but for the times."""
    draws = {name: values for name, values in row["draws"].items() if name not in _TIMES}
    return {name: row[name] for name in ("n_draws", "n_sessions", "n_new_classes", "per_session", "summary")} | {
        "draws": draws
    }


def expected(results: SessionResults) -> dict[str, Any]:
    """Return the same of the library's results, as JSON gives them back."""
    return numbers(json.loads(json.dumps(results.to_dict()).replace("NaN", "null")))


def drawn(labels: torch.Tensor, *sizes: int, seed: int = 0, n_draws: int = 3, **settings: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [incremental_sessions(labels, *sizes, generator=generator, **settings) for _ in range(n_draws)]


def save_pool(path: Path, seed: int, n: int = 6, names: tuple[str, ...] = NAMES, **source: Any) -> Path:
    """Write n rows of each class around a mean that belongs to its name; ids are files in a folder per class."""
    generator = np.random.default_rng(seed)
    labels = torch.arange(len(names)).repeat_interleave(n)
    means = [np.random.default_rng(list(name.encode())).normal(size=7) for name in names]
    features = np.repeat(means, n, axis=0) + 0.8 * generator.normal(size=(n * len(names), 7))
    ids = tuple(f"images/{names[label]}/{seed}_{row}.jpg" for row, label in enumerate(labels.tolist()))
    FeatureSet(torch.tensor(features).float(), labels, names, source, ids).save(path)
    return path


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pool(tmp_path_factory.mktemp("train") / "train.safetensors", 0)


@pytest.fixture(scope="module")
def test(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pool(tmp_path_factory.mktemp("test") / "test.safetensors", 1, 5, NAMES[::-1])


def joined(train: Path, test: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return features, labels and is_test of both files; the second has the classes in the opposite order."""
    a, b = load_features(train), load_features(test)
    features, labels = torch.cat([a.features, b.features]), torch.cat([a.labels, 5 - b.labels])
    return features, labels, torch.arange(len(labels)) >= len(a.labels)


def test_the_document_holds_what_the_library_computes() -> None:
    methods = ("ncm", "teen:shift_weight=0.3")
    words = [word for text in methods for word in ("--method", text)]
    found = document(*FEW, *words, "--n-base", 4, "--n-way", 3, "--n-shot", "3,2", "--seed", 5, "--test-fraction", 0.3)
    pool = load_features("digits")
    runs = [(n_shot, text) for n_shot in (3, 2) for text in methods]
    by_hand = {}
    for n_shot, text in runs:
        draws = drawn(pool.labels, 4, 3, n_shot, seed=5, test_fraction=0.3)
        by_hand[n_shot, text] = evaluate_sessions(
            lambda text=text: build_classifier(text), pool.features, pool.labels, draws
        )
    for row, (n_shot, text) in zip(found["results"], runs, strict=True):
        results = by_hand[n_shot, text]
        assert (row["method"], row["n_shot"], row["settings"]) == (text, n_shot, repr(build_classifier(text)))
        assert numbers(row) == expected(results)
        assert row["average_auroc"] == mean_interval(results.auroc[:, :-1].mean(1))._asdict()
        assert row["n_new_classes"] == [4, 3, 3]
    for row, n_shot in zip(found["differences"], (3, 2), strict=True):
        assert (row["method"], row["against"], row["n_shot"]) == (methods[1], "ncm", n_shot)
        difference = by_hand[n_shot, methods[1]].difference(by_hand[n_shot, "ncm"])
        assert row["per_session"]["harmonic_mean"][1:] == [x._asdict() for x in difference["harmonic_mean"][1:]]
    assert found["command"][:4] == ["fewshot", "calibrate", "--features", "digits"]
    assert (found["features"]["n"], found["test_features"], found["warnings"]) == (1797, None, [])
    assert found["protocol"].split("; ") == [
        "4 base classes, then 2 sessions of 3 new ones",
        "3, 2 shots of each new class, classes in the file's order",
        "3 draws of the rows (seed 5)",
        "asked about 30 % of the rows of each base class, and all rows of a new class but its shots",
    ]


def test_the_python_call_is_the_command(train: Path, test: Path) -> None:
    pool, rows = load_features(train), load_features(test)
    of_file = run_sessions(load_features("digits"))
    found = document("--features", "digits")
    for comparison, told in (
        (of_file, found),
        (
            run_sessions(pool, SessionExperiment(n_base=2, n_way=3, n_shot=(4, 1), n_draws=3, seed=2), test=rows),
            document(
                *("--features", train, "--test", test, "--n-base", 2, "--n-way", 3, "--n-shot", "4,1"),
                *("--draws", 3, "--seed", 2),
            ),
        ),
    ):
        runs = [(run.method, run.n_shot, run.classifier, expected(run.results)) for run in comparison.runs]
        assert runs == [(row["method"], row["n_shot"], row["settings"], numbers(row)) for row in told["results"]]
        assert comparison.protocol(str(test)) == told["protocol"]


def test_settings_that_exclude_each_other_are_refused(train: Path) -> None:
    with refuses(SettingError, "protocol cub200 sets the classes: leave out n_base, n_sessions"):
        SessionExperiment(protocol="cub200", n_base=2, n_sessions=1)
    with refuses(SettingError, "n_draws must be at least 1, got 0"):
        SessionExperiment(n_draws=0)
    with refuses(SettingError, "index_files counts training rows: name the test rows with test"):
        run_sessions(load_features(train), index_lines=[["0"], ["6"]])


def test_the_defaults_are_two_in_five_new_classes_of_five_shots() -> None:
    found = document("--features", "digits", "--method", "ncm", "--classes", "0-8")
    pool = load_features("digits").select_classes(range(9))
    draws = drawn(pool.labels, 5, 5, 5, n_draws=10)
    assert numbers(found["results"][0]) == expected(
        evaluate_sessions(lambda: build_classifier("ncm"), pool.features, pool.labels, draws)
    )
    names = ("n_base", "n_way", "n_shot", "n_sessions", "draws", "class_order")
    assert [found["settings"][name] for name in names] == [5, 5, [5], None, 10, "file"]
    assert document("--features", "digits", "--draws", 1)["settings"]["methods"] == ["ncm", "teen", "teen-auto"]


def test_all_new_classes_can_come_at_once_and_in_a_random_order() -> None:
    words = (*FEW, "--method", "ncm", "--n-way", "all", "--n-base", 3, "--class-order", "random", "--n-shot", 1)
    found = document(*words)
    pool = load_features("digits")
    draws = drawn(pool.labels, 3, 7, 1, class_order="random")
    results = evaluate_sessions(lambda: build_classifier("ncm"), pool.features, pool.labels, draws)
    assert numbers(found["results"][0]) == expected(results)
    assert found["protocol"].startswith(
        "3 base classes, then 1 session of 7 new ones; 1 shot of each new class, classes in a random order in each draw"
    )


def test_one_seed_one_document() -> None:
    words = (*FEW, "--method", "ncm", "--n-shot", 2)
    once, again, other = (numbers(document(*words, "--seed", seed)["results"][0]) for seed in (3, 3, 4))
    assert once == again != other


def test_methods_see_the_same_draws() -> None:
    found = document(*FEW, "--method", "teen", "--method", "teen:shift_weight=0.5")
    (row,) = found["differences"]
    assert row["per_session"]["overall"] == [{"mean": 0.0, "half_width": 0.0}] * 2


def test_a_given_test_split_is_asked_about_and_its_classes_are_matched_by_name(train: Path, test: Path) -> None:
    words = ("--features", train, "--test", test, "--draws", 3, "--n-base", 2, "--n-way", 3, "--n-shot", 4)
    found = document(*words, "--method", "ncm")
    features, labels, is_test = joined(train, test)
    draws = drawn(labels, 2, 3, 4, is_test=is_test)
    assert numbers(found["results"][0]) == expected(
        evaluate_sessions(lambda: build_classifier("ncm"), features, labels, draws)
    )
    assert found["protocol"].split("; ")[::3] == [
        "2 base classes, then sessions of 3 + 1 new ones",
        f"tested on {test}",
    ]
    assert (found["features"]["n"], found["test_features"]["n"]) == (36, 30)


def test_chosen_classes_are_chosen_in_the_test_rows_too(train: Path, test: Path) -> None:
    words = ("--features", train, "--test", test, "--classes", "jay,crow,wren", "--draws", 2, "--method", "ncm")
    found = document(*words)
    assert found["features"]["class_names"] == ["jay", "crow", "wren"]
    assert (found["test_features"]["n"], found["results"][0]["n_new_classes"]) == (15, [2, 1])


def test_a_preset_sets_the_classes_and_the_shots(train: Path, test: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SESSION_PROTOCOLS, "cub200", SessionProtocol(2, 1, 3, 2))
    words = ("--features", train, "--test", test, "--protocol", "cub200", "--draws", 2, "--method", "ncm")
    features, labels, is_test = joined(train, test)
    for given, n_shot in (((), 3), (("--n-shot", 1), 1)):
        found = document(*words, *given)
        draws = drawn(labels, 2, 1, n_shot, n_sessions=2, is_test=is_test, n_draws=2)
        results = evaluate_sessions(lambda: build_classifier("ncm"), features, labels, draws)
        assert numbers(found["results"][0]) == expected(results)
        assert found["settings"]["n_shot"] == [n_shot]
        assert found["protocol"].startswith("cub200: 2 base classes, then 2 sessions of 1 new ones; ")
    assert fails(2, *words, "--n-way", 2, "--n-base", 3) == (
        "Error: --protocol cub200 sets the classes: leave out --n-base, --n-way"
    )


def write_lists(folder: Path, *files: list[str]) -> Path:
    folder.mkdir()
    for number, lines in enumerate(files, start=1):
        (folder / f"session_{number}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_published_lists_of_files_are_read(train: Path, test: Path, tmp_path: Path) -> None:
    ids = load_features(train).ids
    assert ids is not None
    base, first, second = list(ids[:18]), [ids[30], ids[33]], [ids[row] for row in (18, 20, 24, 29)]
    folder = write_lists(tmp_path / "lists", *([f"CUB/{line}" for line in rows] for rows in (base, first, second)))
    (folder / "session_2.txt~").write_text("not one of them", encoding="utf-8")
    found = document("--features", train, "--test", test, "--index-files", folder, "--method", "teen")
    features, labels, is_test = joined(train, test)
    sessions = published_sessions(labels, [*ids, *[""] * 30], [base, first, second], is_test)
    results = evaluate_sessions(lambda: build_classifier("teen"), features, labels, [sessions])
    (row,) = found["results"]
    assert numbers(row) == expected(results)
    assert (row["n_new_classes"], row["n_shot"], row["n_draws"]) == ([3, 1, 2], None, 1)
    assert found["protocol"] == (
        f"3 base classes, then sessions of 1 + 2 new ones; rows as listed in {folder}; tested on {test}"
    )
    table = succeeds("--features", train, "--test", test, "--index-files", folder, "--method", "teen")
    assert table.startswith("In %, one draw\nteen\n")
    assert "±" not in table


def test_published_lists_of_numbers_count_training_rows(train: Path, test: Path, tmp_path: Path) -> None:
    folder = write_lists(tmp_path / "lists", [], ["24", "29"], ["35"])
    words = ("--test", test, "--index-files", folder, "--method", "ncm")
    found = document("--features", train, *words)["results"][0]
    assert found["n_new_classes"] == [4, 1, 1]
    np.savez(tmp_path / "bare.npz", features=load_features(train).features, labels=np.repeat(NAMES, 6))
    assert numbers(document("--features", tmp_path / "bare.npz", *words)["results"][0]) == numbers(found)


def test_lists_that_do_not_fit_are_refused(train: Path, test: Path, tmp_path: Path) -> None:
    words = ("--features", train, "--test", test, "--index-files")
    assert fails(1, *words, tmp_path / "no") == f"Error: no such folder of index files: {tmp_path / 'no'}"
    gap = write_lists(tmp_path / "gap", ["0"], ["6"], ["12"])
    (gap / "session_2.txt").unlink()
    said = f"Error: {gap} has no session_2.txt: index files are session_1.txt, and so on"
    assert fails(1, *words, gap) == said
    empty = write_lists(tmp_path / "empty")
    assert "has no session_1.txt" in fails(1, *words, empty)
    np.savez(tmp_path / "bare.npz", features=load_features(train).features, labels=np.repeat(NAMES, 6))
    named = write_lists(tmp_path / "named", ["crow/0_0.jpg"], ["wren/0_35.jpg"])
    assert fails(1, "--features", tmp_path / "bare.npz", *words[2:], named) == (
        "Error: --index-files names files, such as 'crow/0_0.jpg', and --features does not say which file a row is "
        "from: make the features with fewshot extract"
    )


def cells(*intervals: dict[str, float | None], sign: str = "") -> list[str]:
    words = [
        "-" if x["mean"] is None else f"{100 * x['mean']:{sign}.2f} ± {100 * (x['half_width'] or 0):.2f}"
        for x in intervals
    ]
    return " ".join(words).split()


def test_the_table_shows_the_document() -> None:
    words = (*FEW, "--method", "ncm", "--method", "teen", "--n-way", 2, "--n-shot", "1,4")
    table, found = succeeds(*words), document(*words)
    lines = [line.split() for line in table.splitlines()]
    assert "In %, mean ± 95 % interval over 3 draws" in table
    shown = ("overall", "base", "new", "harmonic_mean", "new_to_base_rate", "base_to_new_rate")
    for row in found["results"]:
        start = lines.index([f"{row['method']},", f"{row['n_shot']}-shot"])
        header = ["session", "classes", "overall", "base", "new", "harmonic", "mean", "new→base", "base→new"]
        assert lines[start + 2] == header
        for session, n_seen in enumerate((6, 8, 10)):
            scores = cells(*(row["per_session"][name][session] for name in shown))
            assert lines[start + 4 + session] == [str(session), str(n_seen), *scores], table
        last = [row["per_session"][name][-1] for name in ("base", "new", "harmonic_mean")]
        names = ("average_accuracy", "performance_drop", "average_harmonic_mean")
        scores = cells(*(row["summary"][name] for name in names), *last, row["average_auroc"])
        start = lines.index(["Over", "all", "sessions,", f"{row['n_shot']}-shot"])
        assert [row["method"], *scores] in lines[start : start + 6], table
    gains = [row["per_session"]["harmonic_mean"][-1] for row in found["differences"]]
    assert ["teen", *cells(*gains, sign="+")] in lines, table
    assert "difference to ncm on the same draws, in points" in table
    assert "session 0 is measured with the same classifier as the later ones" in table
    assert "  features  digits: 1,797 rows, 10 classes, 64 features\n" in table
    assert "  methods   ncm: NearestClassMean()\n            teen: TEEN()\n" in table
    assert not any(line != line.rstrip() for line in table.splitlines())


def test_the_best_of_each_column_is_bold_and_the_lowest_drop() -> None:
    found = document(*FEW, "--method", "ncm", "--method", "teen", "--n-shot", 1)
    pool, methods = load_features("digits"), ("ncm", "teen")
    comparison = run_sessions(pool, SessionExperiment(methods=methods, n_shot=(1,), n_draws=3))
    report = calibrate_report(comparison, comparison.protocol(), (), None)
    console = Console(force_terminal=True, width=200, no_color=True)
    with console.capture() as captured:
        console.print(report[report.index("Over all sessions, 1-shot") + 1])
    for name, best_of in (("average_harmonic_mean", max), ("performance_drop", min)):
        means = [row["summary"][name]["mean"] for row in found["results"]]
        for row in found["results"]:
            mean, half_width = (100 * row["summary"][name][part] for part in ("mean", "half_width"))
            is_bold = re.search(rf"\x1b\[1m *{mean:.2f} ± {half_width:.2f}\x1b", captured.get()) is not None
            assert is_bold == (row["summary"][name]["mean"] == best_of(means))


def test_of_many_sessions_some_are_shown(tmp_path: Path) -> None:
    names = tuple(f"bird{number:02}" for number in range(32))
    pool = save_pool(tmp_path / "many.safetensors", 0, 4, names)
    table = succeeds("--features", pool, "--n-base", 2, "--n-way", 1, "--n-shot", 1, "--draws", 2, "--method", "ncm")
    rows = [line.split()[:2] for line in table.splitlines() if line[:5].strip() == "" and line[5:9].strip().isdecimal()]
    assert (rows[0], rows[-1], len(rows)) == (["0", "2"], ["30", "32"], 12)
    assert "12 of the 31 sessions are shown, --json has all" in table


def test_the_picture_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, of the extra plots, is not installed")
    words = (*FEW, "--method", "ncm", "--method", "teen", "--n-shot", "1,3")
    for name, start in (("a.svg", b"<?xml"), ("b.PNG", b"\x89PNG")):
        table = succeeds(*words, "--plot", tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
        assert table.endswith(f"  plot      {tmp_path / name}\n")
    assert "<svg" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_the_picture_shows_the_document(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = pytest.importorskip("matplotlib.figure", reason="matplotlib, of the extra plots, is not installed")
    saved = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda figure, path, **settings: saved.append(figure))
    words = (*FEW, "--n-way", 2, "--method", "ncm", "--method", "teen", "--n-shot", "1,3")
    found = document(*words, "--plot", tmp_path / "a.svg")
    axes = saved[0].get_axes()
    assert [one.get_title() for one in axes[3:]] == [
        "base classes, 3-shot", "new classes, 3-shot", "harmonic mean, 3-shot"
    ]  # fmt: skip
    for number, one in enumerate(axes):
        name, n_shot = ("base", "new", "harmonic_mean")[number % 3], (1, 3)[number // 3]
        rows = [row for row in found["results"] if row["n_shot"] == n_shot]
        for line, row, shade in zip(one.get_lines(), rows, one.collections, strict=True):
            points = [(s, x) for s, x in enumerate(row["per_session"][name]) if x["mean"] is not None]
            assert line.get_label() == row["method"]
            assert line.get_xydata().tolist() == [[s, 100 * x["mean"]] for s, x in points]
            highest = shade.get_paths()[0].vertices[:, 1].max()
            assert highest == pytest.approx(max(100 * (x["mean"] + x["half_width"]) for _, x in points))


def test_without_matplotlib_the_extra_is_named_before_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(options, "load_pool", None)
    assert fails(1, *FEW, "--plot", tmp_path / "a.svg") == (
        'Error: --plot is drawn by matplotlib: pip install "fewshot[plots]"'
    )


def test_features_of_another_make_are_refused(tmp_path: Path, train: Path) -> None:
    old, new = (
        save_pool(tmp_path / f"{size}.safetensors", size, extractor_key=f"{size}", extractor={"size": size})
        for size in (224, 288)
    )
    assert fails(1, "--features", old, "--test", new).startswith(
        f"Error: {old} and {new} come from different extractors (size is 224 and 288)"
    )
    assert fails(1, "--features", "digits", "--test", train) == (
        f"Error: {train} has 7 features a row, digits 64: take both from one extractor"
    )
    strange = save_pool(tmp_path / "strange.safetensors", 0, names=("crow", "kite"))
    assert fails(1, "--features", train, "--test", strange) == (
        "Error: 1 of the 2 classes of --test are not among the 6 training classes, such as 'kite': choose shared ones "
        "with --classes"
    )


def test_features_of_one_class_and_half_a_test_set_are_refused(train: Path, tmp_path: Path) -> None:
    assert fails(1, "--features", train, "--classes", "owl") == (
        "Error: n_base = 1 leaves no new class: there are 1 classes"
    )
    half = save_pool(tmp_path / "half.safetensors", 1, names=NAMES[:5])
    assert "class 'wren' has 0 test items" in fails(1, "--features", train, "--test", half)
    assert "class 'tit' has 6 items, fewer than the 7" in fails(1, "--features", train, "--n-shot", 6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "ten"), "unknown method 'ten': did you mean 'teen'? Known: "),
        (
            ("--method", "teen:shift_wait=1"),
            "unknown option of teen 'shift_wait': did you mean 'shift_weight'? Known: ",
        ),
        (("--method", "ncm", "--method", "ncm"), "Error: --method: ncm is given twice"),
        (("--protocol", "cub"), "unknown word 'cub': did you mean 'cub200'? Known: "),
        (("--protocol", "cub200", "--n-base", "5"), "--protocol cub200 sets the classes: leave out --n-base"),
        (("--n-way", "some"), "needs whole numbers from 1, separated by commas, such as 1,5,10 or all; got 'some'"),
        (("--n-way", "2,3"), "needs one whole number, or all; got '2,3'"),
        (("--n-shot", "0"), "needs whole numbers from 1, separated by commas, such as 1,5,10; got '0'"),
        (("--draws", "0"), "0 is not in the range x>=1"),
        (("--class-order", "name"), "unknown word 'name'"),
        (("--test-labels", "y.txt"), "--test-labels needs --test"),
        (("--test", "digits"), "--test names the training features: leave it out to hold out a part of them"),
        (("--test", "x.npz", "--test-fraction", "0.3"), "--test-fraction holds out test rows: leave it out, --test na"),
        (("--index-files", "x"), "--index-files counts training rows: name the test rows with --test"),
        (
            ("--index-files", "x", "--test", "y.npz", "--n-shot", "1", "--classes", "0-5", "--protocol", "cub200"),
            "--index-files says which rows each session learns from: leave out --protocol, --n-shot, --classes",
        ),
    ],
)
def test_wrong_words_are_answered_with_the_right_ones(words: tuple[str, ...], said: str) -> None:
    assert said in fails(2, "--features", "digits", *words)


def test_what_does_not_fit_is_one_line() -> None:
    assert fails(1, "--features", "digits", "--protocol", "cub200") == (
        "Error: --protocol cub200 needs 200 classes, --features has 10: leave it out, and give --n-base and --n-way"
    )
    assert fails(1, "--features", "digits", "--n-base", 10) == (
        "Error: n_base = 10 leaves no new class: there are 10 classes"
    )
    assert fails(1, "--features", "digits", "--plot", "a.gif") == (
        "Error: --plot draws .svg, .png, .pdf, got 'a.gif': name one of these"
    )
    assert fails(1, "--features", "digits", "--plot", "no/a.svg") == (
        "Error: no such folder: no: create it before writing a.svg"
    )


# --- fewshot methods --------------------------------------------------------------------------------------------------


def incremental_lines() -> dict[str, str]:
    """Return the lines of the second table, by method."""
    table = fewshot("methods").stdout.splitlines()
    lines = table[table.index("Of fewshot calibrate and fewshot learn") + 4 :]
    return {line.split()[0]: line for line in lines if line}


def test_every_incremental_method_is_listed() -> None:
    rows = {row["name"]: row for row in json.loads(fewshot("methods", "--json").stdout)["incremental_methods"]}
    assert list(rows) == list(INCREMENTAL_METHODS)
    lines = incremental_lines()
    assert list(lines) == list(INCREMENTAL_METHODS)
    for name, entry in INCREMENTAL_METHODS.items():
        row = rows[name]
        assert (row["estimator"], row["summary"], row["reference"]) == (
            entry.class_name,
            entry.summary,
            entry.reference,
        )
        options = INCREMENTAL_METHODS[name].options()
        assert row["options"] == {key: options[key] for key in row["options"]}
        assert all(isinstance(options[key], tuple) for key in options.keys() - row["options"].keys())
        assert all(word in lines[name] for word in (entry.class_name, entry.summary, entry.reference))


@pytest.mark.parametrize("name", INCREMENTAL_METHODS)
def test_the_listed_options_can_be_given_as_they_are(name: str) -> None:
    options = incremental_lines()[name].split()[-1]
    assert repr(build_classifier(f"{name}:{options}")) == repr(build_classifier(name))


def test_methods_may_be_listed_and_a_comma_may_also_begin_an_option() -> None:
    listed = "teen:shift_weight=0.2,softmax_scale=8,ncm,teen-auto"
    words = ["calibrate", "--features", "digits", "--n-way", "all", "--draws", "1", "--json", "--quiet"]
    told = json.loads(CliRunner().invoke(cli, [*words, "--method", listed]).stdout)
    assert [row["settings"] for row in told["results"]] == [
        "TEEN(shift_weight=0.2, softmax_scale=8.0)",
        "NearestClassMean()",
        "TEEN(shift_weight='auto')",
    ]
